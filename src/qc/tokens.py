"""Questions to token ids, with an encoder's own fast WordPiece tokenizer.

Notable:
- ids come without special tokens and without a limit; each model adds and cuts what it needs
- `model_text` is the one place that says how a question is treated before it is tokenized
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from qc.errors import QcError
from qc.labels import LabelledQuestion
from qc.vocabulary import SPECIAL_TOKENS


def question_table(partitions: Mapping[str, Sequence[LabelledQuestion]]) -> tuple[Dataset, dict[str, list[str]]]:
    """Lay out label files as one table.

    Args:
        partitions: The questions of each label file by partition, `train` and perhaps `test`.

    Returns:
        A table with columns id, partition, text, coarse, fine and label, in file order; the names of the
        coarse classes in label order, and of the fine ones, `COARSE:fine`, that the train file holds.

    Raises:
        QcError: A class stands in the test file alone, so that no model could learn it.
    """
    classes = sorted({question.coarse for question in partitions["train"]})
    rows = [(partition, question) for partition, questions in partitions.items() for question in questions]
    unknown = sorted({question.coarse for _, question in rows} - set(classes))
    if unknown:
        raise QcError(
            f"test.label: class {', '.join(unknown)} does not stand in train.label; known: {', '.join(classes)}"
        )
    table = {
        "id": list(range(len(rows))),
        "partition": [partition for partition, _ in rows],
        "text": [question.text for _, question in rows],
        "coarse": [question.coarse for _, question in rows],
        "fine": [question.fine for _, question in rows],
        "label": [classes.index(question.coarse) for _, question in rows],
    }
    fine_classes = sorted({f"{question.coarse}:{question.fine}" for question in partitions["train"]})
    return Dataset.from_dict(table), {"classes": classes, "fine_classes": fine_classes}


def model_text(text: str, fine: str, lowercase: bool, include_fine_label: bool) -> str:
    """A question as the models see it."""
    text = f"{fine} {text}" if include_fine_label else text
    return text.lower() if lowercase else text


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of the encoder in `folder`.

    Raises:
        QcError: It is no fast WordPiece tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["type"] if tokenizer.is_fast else "slow"
    if model != "WordPiece":
        raise QcError(f"{folder.name}: its tokenizer is {model}; allowed: a fast WordPiece tokenizer")
    return tokenizer


def tokenize(questions: Dataset, tokenizer: Any, lowercase: bool, include_fine_label: bool) -> Dataset:
    """Add the column `input_ids`: token ids without special tokens, at least one for each question.

    Args:
        questions: A table with columns text and fine.
        tokenizer: From `load_tokenizer`.
        lowercase: Lower-case the text first.
        include_fine_label: Put the fine label before the question.
    """
    tokenizer.model_max_length = int(1e9)  # questions are cut where they are used, and counted there
    unknown = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS["unknown"])

    def encode(batch: dict[str, list]) -> dict[str, list]:
        texts = [
            model_text(text, fine, lowercase, include_fine_label)
            for text, fine in zip(batch["text"], batch["fine"], strict=True)
        ]
        ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
        return {"input_ids": [row or [unknown] for row in ids["input_ids"]]}

    return questions.map(encode, batched=True, desc="tokenize", keep_in_memory=True)
