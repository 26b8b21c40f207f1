"""tokenize: data/raw, an encoder's tokenizer -> data/tokenized/{questions.parquet, vocabulary.json, labels.json}"""

from qc.artifacts import new_folder, write_json, write_table
from qc.labels import parse
from qc.settings import Settings
from qc.tokens import load_tokenizer, question_table, tokenize
from qc.vocabulary import describe_vocabulary
from stages.entry import ENCODERS, RAW, TOKENIZED, run


def main(settings: Settings) -> None:
    """Parse the label files and turn every question into token ids, once for all models."""
    own = settings.tokenize
    files = {"train": RAW / "train.label", "test": RAW / "test.label"}
    partitions = {partition: parse(path.read_bytes(), str(path)) for partition, path in files.items() if path.exists()}
    questions, labels = question_table(partitions)
    encoder = ENCODERS / own.encoder
    questions = tokenize(questions, load_tokenizer(encoder), own.lowercase, own.include_fine_label)
    vocabulary = {
        "tokenizer": own.encoder,
        **describe_vocabulary(encoder),
        "lowercase": own.lowercase,
        "include_fine_label": own.include_fine_label,
    }
    with new_folder(TOKENIZED) as folder:
        write_table(folder / "questions.parquet", questions.data.table)
        write_json(folder / "vocabulary.json", vocabulary)
        write_json(folder / "labels.json", labels)
    tokens = sum(map(len, questions["input_ids"]))
    print(f"{len(questions)} questions of {len(labels['classes'])} classes, {tokens} tokens")


if __name__ == "__main__":
    run(main)
