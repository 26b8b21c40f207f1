"""tokenize: data/raw, an encoder's tokenizer -> data/tokenized/{questions.parquet, vocabulary.json, labels.json}"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow
from datasets import disable_progress_bars
from tqdm import tqdm

from qc.artifacts import new_folder, read_json, write_json, write_table
from qc.errors import QcError
from qc.questions import LabelledQuestion, label_encoding, parse
from qc.settings import Settings
from qc.texts import load_tokenizer
from qc.tokens import question_tables, take_inventory, tokenize
from qc.vocabulary import describe_vocabulary
from stages.entry import ENCODERS, FILES, RAW, TOKENIZED, run

ENCODINGS = {"ascii": "ASCII", "utf-8-sig": "UTF-8", "cp1252": "latin-1 (Windows-1252)"}


def read_questions() -> Iterator[tuple[str, LabelledQuestion]]:
    """Partition and question, of every file in data/raw."""
    for partition, about in read_json(FILES).items():
        path = RAW / about["file"]
        where = about["name"] if Path(about["name"]).is_file() else str(path)  # what the user is to mend
        with path.open("rb") as file:
            for question in parse(file, path.suffix, about["columns"], where):
                yield partition, question


def main(settings: Settings) -> None:
    """Parse the files of questions and turn every question into token ids, once for all models."""
    own = settings.tokenize
    for about in read_json(FILES).values():
        if about["file"].endswith(".label"):
            with (RAW / about["file"]).open("rb") as file:
                print(f"{about['name']}: read as {ENCODINGS[label_encoding(file)]}")
    inventory = take_inventory(read_questions())
    if own.include_fine_label and inventory.without_fine:
        raise QcError(
            "params.yaml: tokenize.include_fine_label: True is not possible; allowed: false, where questions have no "
            "fine label"
        )
    encoder = ENCODERS / own.encoder
    tokenizer = load_tokenizer(encoder)
    vocabulary = {
        "tokenizer": own.encoder,
        **describe_vocabulary(encoder),
        "lowercase": own.lowercase,
        "include_fine_label": own.include_fine_label,
    }
    disable_progress_bars()  # ours shows the whole
    tokens = 0

    def tables() -> Iterator[pyarrow.Table]:
        nonlocal tokens
        with tqdm(total=inventory.questions, desc="tokenize", unit="question", leave=False, disable=None) as bar:
            for questions in question_tables(read_questions(), inventory.classes):
                table = tokenize(questions, tokenizer, own.lowercase, own.include_fine_label).data.table
                tokens += len(table["input_ids"].combine_chunks().flatten())
                bar.update(len(table))
                yield table.replace_schema_metadata(None)  # a fingerprint of this very code stands there

    with new_folder(TOKENIZED) as folder:
        write_table(folder / "questions.parquet", tables())
        write_json(folder / "vocabulary.json", vocabulary)
        write_json(folder / "labels.json", inventory.labels())
    print(f"{inventory.questions} questions of {len(inventory.classes)} classes, {tokens} tokens")


if __name__ == "__main__":
    run(main)
