"""split: data/tokenized/questions.parquet -> data/split/{train,valid,test}.parquet, metrics/data.json"""

from qc.artifacts import new_folder, read_table, write_json, write_table
from qc.settings import Settings
from qc.splits import describe_splits, official_split, split_questions
from stages.entry import METRICS, SPLIT, TOKENIZED, run


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
    figures = describe_splits({name: table.to_pydict() for name, table in tables.items()}, settings.max_length)
    with new_folder(SPLIT) as folder:
        for name, table in tables.items():
            write_table(folder / f"{name}.parquet", table)
    write_json(METRICS / "data.json", figures | overlap)
    print(", ".join(f"{name}: {len(table)} questions" for name, table in tables.items()))


if __name__ == "__main__":
    run(main)
