"""tokenize: data/raw, an encoder's tokenizer -> data/tokenized/{questions.parquet, vocabulary.json, labels.json}"""

from pathlib import Path

from qc.artifacts import new_folder, read_json, write_json, write_table
from qc.questions import parse
from qc.settings import Settings
from qc.texts import load_tokenizer
from qc.tokens import question_table, tokenize
from qc.vocabulary import describe_vocabulary
from stages.entry import ENCODERS, FILES, RAW, TOKENIZED, run


def main(settings: Settings) -> None:
    """Parse the files of questions and turn every question into token ids, once for all models."""
    own = settings.tokenize
    partitions = {}
    for partition, about in read_json(FILES).items():
        path = RAW / about["file"]
        where = about["name"] if Path(about["name"]).is_file() else str(path)  # what the user is to mend
        partitions[partition] = parse(path.read_bytes(), path.suffix, about["columns"], where)
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
        table = questions.data.table.replace_schema_metadata(None)  # a fingerprint of this very code stands there
        write_table(folder / "questions.parquet", table)
        write_json(folder / "vocabulary.json", vocabulary)
        write_json(folder / "labels.json", labels)
    tokens = sum(map(len, questions["input_ids"]))
    print(f"{len(questions)} questions of {len(labels['classes'])} classes, {tokens} tokens")


if __name__ == "__main__":
    run(main)
