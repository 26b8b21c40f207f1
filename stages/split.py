"""split: deal the questions out to train, validation and test, and audit the data.

Reads data/tokenized. Writes data/split/{train,valid,test}.parquet, the questions with the number of their group of
equal questions, and reports/data.json, which includes the leak audit. The audit is scored on test: it checks the data
and chooses nothing.
"""

import sys

from qc.config.settings import Settings
from qc.paths import INPUT_IDS, LABELS, QUESTIONS, REPORTS, SPLIT, TOKENIZED, VOCABULARY
from qc.stage import run

AUDITED = 20_000  # questions of train, and of test, that the audit's TF-IDF baseline is fitted and scored on at most

WARNING = """
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!  A LEAK IS SUSPECTED  !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
The first token of a question alone predicts the class of {first_token:.1%} of the test questions; the TF-IDF baseline,
which sees the published text, of {tfidf_svm:.1%}. Is the answer part of the question (tokenize.include_fine_label)?
No accuracy measured on such data says how well a model understands a question.
"""


def main(settings: Settings) -> None:
    """Split, audit, and write both."""
    from qc.evaluation.baselines import tfidf_accuracy
    from qc.files import file_sha256, new_folder, write_json
    from qc.questions.labels import Labels
    from qc.questions.parquet import read_chosen, read_pieces, write_table
    from qc.split.audit import audit_leaks, describe_splits, leak_suspected
    from qc.split.groups import COLUMNS, add_groups, group_questions, read_tokenized, sample_groups
    from qc.split.splits import split_questions

    config, classes = settings.split, Labels.read(LABELS).classes
    tokenizers = dict.fromkeys(settings.encoders_used().values())  # each once
    tokenized = [read_tokenized(TOKENIZED / name / INPUT_IDS, TOKENIZED / name / VOCABULARY) for name in tokenizers]
    questions = group_questions(read_pieces(QUESTIONS, *COLUMNS), tokenized, config.seed)
    splits, overlap = split_questions(questions, classes, config)

    parts = {name: questions.take(rows) for name, rows in splits.items()}
    audited = {name: sample_groups(questions, splits[name], AUDITED) for name in ("train", "test")}
    train, test = (read_chosen(QUESTIONS, rows, "text", "label") for rows in audited.values())
    audit = {**audit_leaks(parts["train"], parts["test"]), "tfidf_svm": tfidf_accuracy(train, test)}
    suspected = leak_suspected(audit, config.leak_above, config.leak_above_baseline)
    figures = {
        **describe_splits(parts, classes, settings.max_length),
        **overlap,
        "leak_audit": audit,
        "leak_audit_questions": {name: len(rows) for name, rows in audited.items()},
        "leak_suspected": suspected,
    }
    with new_folder(SPLIT) as folder:
        for name, rows in splits.items():
            write_table(folder / f"{name}.parquet", add_groups(read_chosen(QUESTIONS, rows), questions.groups))
    sha256 = {name: file_sha256(SPLIT / f"{name}.parquet") for name in splits}
    write_json(REPORTS / "data.json", {**figures, "sha256": sha256})
    print(", ".join(f"{name}: {len(rows)} questions" for name, rows in splits.items()))
    print("leak audit, accuracy on test: " + ", ".join(f"{name} {share:.3f}" for name, share in audit.items()))
    if suspected:
        print(WARNING.format(**audit), file=sys.stderr)


if __name__ == "__main__":
    run(main)
