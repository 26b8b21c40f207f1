"""split: data/tokenized -> data/split/{train,valid,test}.parquet, metrics/data.json

The splits hold the questions and the number of each one's group of equal questions, see `qc.rows`: those that the
tokenizer of any model cannot tell apart are in one group.

The figures on the data include the leak audit, which is scored on test: it is a check of the data, and chooses nothing.
"""

import sys
from collections.abc import Iterator

import numpy as np
import pyarrow

from qc.artifacts import new_folder, read_chosen, read_json, read_pieces, write_json, write_table
from qc.audit import audit_leaks, describe_splits, leak_suspected
from qc.baselines import predict_baselines
from qc.rows import COLUMNS, Rows, Tokenized, read_rows
from qc.settings import Settings
from qc.splits import official_split, split_questions
from stages.entry import INPUT_IDS, LABELS, METRICS, QUESTIONS, SPLIT, TOKENIZED, VOCABULARY, run

AUDITED = 20_000  # questions of train, and of test, that the audit's TF-IDF baseline is fitted and scored on at most

WARNING = """
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!  A LEAK IS SUSPECTED  !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
The first token of a question alone tells the class of {first_token:.1%} of the test questions; the TF-IDF baseline,
which sees the published text, {tfidf_svm:.1%}. Is the answer part of the question (tokenize.include_fine_label)?
No accuracy measured on such data tells how well a model understands a question.
"""


def main(settings: Settings) -> None:
    """Deal the questions out, and say what the splits hold."""
    own = settings.split
    classes = read_json(LABELS)["classes"]
    tokenizers = dict.fromkeys(settings.encoders_used().values())  # each once
    rows = read_rows(read_pieces(QUESTIONS, *COLUMNS), [tokenized(name) for name in tokenizers], own.seed)
    overlap = {}
    if rows.official.any():
        splits, overlap["train_questions_in_official_test"] = official_split(
            rows.groups, rows.labels, classes, rows.official, own.valid, own.drop_test_questions
        )
    else:
        splits = split_questions(rows.groups, rows.labels, classes, {"test": own.test, "valid": own.valid})
    splits = {name: splits[name] for name in ("train", "valid", "test")}

    parts = {name: rows.take(chosen) for name, chosen in splits.items()}
    audit = audit_leaks(parts["train"], parts["test"])
    audited = {name: first_by_group(rows, splits[name]) for name in ("train", "test")}
    audit["tfidf_svm"] = tfidf_accuracy(**audited)
    suspected = leak_suspected(audit, own.leak_above, own.leak_above_baseline)
    figures = {
        **describe_splits(parts, classes, settings.max_length),
        **overlap,
        "leak_audit": audit,
        "leak_audit_questions": {name: len(chosen) for name, chosen in audited.items()},
        "leak_suspected": suspected,
    }
    with new_folder(SPLIT) as folder:
        for name, chosen in splits.items():
            write_table(folder / f"{name}.parquet", with_groups(chosen, rows))
    write_json(METRICS / "data.json", figures)
    print(", ".join(f"{name}: {len(chosen)} questions" for name, chosen in splits.items()))
    print("leak audit, accuracy on test: " + ", ".join(f"{name} {share:.3f}" for name, share in audit.items()))
    if suspected:
        print(WARNING.format(**audit), file=sys.stderr)


def tokenized(name: str) -> Tokenized:
    """The questions as the tokenizer of an encoder has them."""
    vocabulary = read_json(TOKENIZED / name / VOCABULARY)
    pieces = read_pieces(TOKENIZED / name / INPUT_IDS, "input_ids")
    return Tokenized(pieces, len(vocabulary["before"]), len(vocabulary["after"]))


def with_groups(chosen: np.ndarray, rows: Rows) -> Iterator[pyarrow.Table]:
    """The questions of some row numbers, which ascend, piece by piece, each with the number of its group."""
    for piece in read_chosen(QUESTIONS, chosen):
        yield piece.append_column("group", pyarrow.array(rows.groups[piece["id"].to_numpy()]))


def first_by_group(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    """The first `AUDITED` of some row numbers by the group of the row, ascending: a sample blind to the rows' order."""
    return np.sort(chosen[np.argsort(rows.groups[chosen], kind="stable")[:AUDITED]])


def tfidf_accuracy(train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy of the TF-IDF baseline, fitted on some row numbers and scored on others."""
    seen, asked = (
        pyarrow.concat_tables(read_chosen(QUESTIONS, chosen, "text", "label")).to_pydict() for chosen in (train, test)
    )
    [predicted] = predict_baselines(seen["text"], seen["label"], asked["text"])
    return float(np.mean(predicted["tfidf_svm"] == np.array(asked["label"])))


if __name__ == "__main__":
    run(main)
