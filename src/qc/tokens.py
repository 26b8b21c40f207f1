"""Files of questions as one table of token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer

from qc.errors import QcError
from qc.questions import LabelledQuestion
from qc.texts import model_text, token_ids


def question_table(partitions: Mapping[str, Sequence[LabelledQuestion]]) -> tuple[Dataset, dict[str, list]]:
    """Lay out files of questions as one table.

    Args:
        partitions: The questions of each file by partition, `train` and perhaps `test`.

    Returns:
        A table with columns id, partition, text, coarse, fine and label, in file order; the names of the coarse classes
        in label order, and the fine ones that the train file holds, each as [coarse, fine]; none where it has no fine
        labels.

    Raises:
        QcError: There is but one class, or one stands in the test file alone: no model could learn it.
    """
    classes = sorted({question.coarse for question in partitions["train"]})
    if len(classes) < 2:
        raise QcError(f"the train file has one class alone, {classes[0]}; two are the least that can be told apart")
    rows = [(partition, question) for partition, questions in partitions.items() for question in questions]
    unknown = sorted({question.coarse for _, question in rows} - set(classes))
    if unknown:
        raise QcError(
            f"the test file has class {', '.join(unknown)}, which does not stand in the train file; known: "
            f"{', '.join(classes)}"
        )
    table = {
        "id": list(range(len(rows))),
        "partition": [partition for partition, _ in rows],
        "text": [question.text for _, question in rows],
        "coarse": [question.coarse for _, question in rows],
        "fine": [question.fine for _, question in rows],
        "label": [classes.index(question.coarse) for _, question in rows],
    }
    fine_classes = sorted({(question.coarse, question.fine) for question in partitions["train"] if question.fine})
    return Dataset.from_dict(table), {"classes": classes, "fine_classes": [list(pair) for pair in fine_classes]}


def tokenize(questions: Dataset, tokenizer: Tokenizer, lowercase: bool, include_fine_label: bool) -> Dataset:
    """Add the column `input_ids`, see `qc.texts`.

    Args:
        questions: A table with columns text and fine.
        tokenizer: From `load_tokenizer`.
        lowercase: Lower-case the text first.
        include_fine_label: Put the fine label before the question.

    Raises:
        QcError: The fine label is to stand before questions that have none.
    """
    if include_fine_label and not all(questions["fine"]):
        raise QcError(
            "params.yaml: tokenize.include_fine_label: True is not possible; allowed: false, where questions have no "
            "fine label"
        )

    def encode(batch: dict[str, Any]) -> dict[str, list]:
        fine = batch["fine"] if include_fine_label else [None] * len(batch["text"])
        texts = [model_text(text, lowercase, label) for text, label in zip(batch["text"], fine, strict=True)]
        return {"input_ids": token_ids(tokenizer, texts)}

    return questions.map(encode, batched=True, desc="tokenize", keep_in_memory=True)
