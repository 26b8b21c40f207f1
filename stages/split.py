"""split: data/tokenized/questions.parquet -> data/split/{train,valid,test}.parquet, metrics/data.json

The figures on the data include the leak audit, which is scored on test: it is a check of the data, and chooses nothing.
"""

import sys

from qc.artifacts import new_folder, read_table, write_json, write_table
from qc.audit import audit_leaks, describe_splits, leak_suspected
from qc.settings import Settings
from qc.splits import official_split, split_questions
from stages.entry import METRICS, SPLIT, TOKENIZED, run

WARNING = """
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!  A LEAK IS SUSPECTED  !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
The first token of a question alone tells the class of {first_token:.1%} of the test questions; the TF-IDF baseline,
which sees the published text, {tfidf_svm:.1%}. Is the answer part of the question (tokenize.include_fine_label)?
No accuracy measured on such data tells how well a model understands a question.
"""


def main(settings: Settings) -> None:
    """Deal the questions out, and say what the splits hold."""
    own = settings.split
    questions = read_table(TOKENIZED / "questions.parquet")
    texts, classes, partitions = (questions[name].to_pylist() for name in ("text", "coarse", "partition"))
    overlap = {}
    if "test" in partitions:
        splits, overlap["train_questions_in_official_test"] = official_split(
            texts, classes, partitions, own.valid, own.seed, own.drop_test_questions
        )
    else:
        splits = split_questions(texts, classes, {"test": own.test, "valid": own.valid}, own.seed)

    tables = {name: questions.take(splits[name]) for name in ("train", "valid", "test")}
    columns = {name: table.to_pydict() for name, table in tables.items()}
    figures = describe_splits(columns, settings.max_length) | overlap
    audit = audit_leaks(columns["train"], columns["test"])
    suspected = leak_suspected(audit, own.leak_above, own.leak_above_baseline)
    with new_folder(SPLIT) as folder:
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
    write_json(METRICS / "data.json", {**figures, "leak_audit": audit, "leak_suspected": suspected})
    print(", ".join(f"{name}: {len(table)} questions" for name, table in tables.items()))
    print("leak audit, accuracy on test: " + ", ".join(f"{name} {share:.3f}" for name, share in audit.items()))
    if suspected:
        print(WARNING.format(**audit), file=sys.stderr)


if __name__ == "__main__":
    run(main)
