"""split: deal the questions out to train, validation and test, and audit the data.

Reads data/tokenized. Writes data/split/NAME/{train,valid,test}.parquet for every encoder NAME whose tokenizer a model
uses: all that such a model needs, with the number of each question's group of equal questions; beside them
vocabulary.json. Writes reports/data.json, which includes the leak audit. The audit is scored on test: it checks the
data and chooses nothing.
"""

import sys

from qc.config.settings import Settings
from qc.paths import REPORTS, SPLIT, TOKENIZED
from qc.stage import run

WARNING = """
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!  A LEAK IS SUSPECTED  !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
The first token of a question alone predicts the class of {first_token:.1%} of the test questions. Is the answer part of
the text, as with tokenize.include_fine_label?
No accuracy measured on such data says how well a model understands a question.
"""


def main(settings: Settings) -> None:
    """Split, audit, and write both."""
    from qc.files import file_sha256, new_folder, write_json
    from qc.questions.tables import QUESTIONS, VOCABULARY, read_pieces
    from qc.questions.vocabulary import Vocabulary
    from qc.split.audit import audit_leaks, describe_splits
    from qc.split.groups import Reading, group_questions
    from qc.split.splits import official_split, stratified_group_split, write_split

    config, names = settings.split, dict.fromkeys(model.tokenizer_name for model in settings.training().values())
    vocabularies = {name: Vocabulary.read(TOKENIZED / name / VOCABULARY) for name in names}
    read = dict.fromkeys(
        (model.tokenizer_name, model.tokens_kept(settings.max_length)) for model in settings.training().values()
    )
    readings = [Reading(TOKENIZED / name / QUESTIONS, vocabularies[name], max_length) for name, max_length in read]
    questions, first = group_questions(readings, config.seed), readings[0].table
    names_of_classes = next(read_pieces(first, "label", "fine")).class_names
    groups, labels, classes, overlap = questions.groups, questions.labels, names_of_classes.classes, {}
    if questions.official.any():
        splits, overlap["train_questions_in_official_test"] = official_split(
            groups, labels, classes, questions.official, config.valid, config.drop_test_questions
        )
    else:
        splits = stratified_group_split(groups, labels, classes, {"test": config.test, "valid": config.valid})
    splits = {name: splits[name] for name in ("train", "valid", "test")}

    parts = {name: questions.take(rows) for name, rows in splits.items()}
    audit = audit_leaks(parts["train"], parts["test"])
    suspected = audit["first_token"] > config.leak_above
    figures = {
        **describe_splits(parts, classes, readings[0].max_length),
        **overlap,
        "leak_audit": audit,
        "leak_suspected": suspected,
    }
    with new_folder(SPLIT) as folder:
        for name in names:
            write_json(folder / name / VOCABULARY, vocabularies[name].record())
            for split, rows in splits.items():
                source, target = TOKENIZED / name / QUESTIONS, folder / name / f"{split}.parquet"
                write_split(source, rows, groups, names_of_classes, target)
    sha256 = {f"{name}/{split}": file_sha256(SPLIT / name / f"{split}.parquet") for name in names for split in splits}
    write_json(REPORTS / "data.json", {**figures, "sha256": sha256})
    print(", ".join(f"{name}: {len(rows)} questions" for name, rows in splits.items()))
    print("leak audit, accuracy on test: " + ", ".join(f"{name} {share:.3f}" for name, share in audit.items()))
    if suspected:
        print(WARNING.format(**audit), file=sys.stderr)


if __name__ == "__main__":
    run(main)
