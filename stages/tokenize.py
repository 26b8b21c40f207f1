"""tokenize: data/raw, the encoders' tokenizers -> data/tokenized

questions.parquet holds the questions, labels.json the names of their classes; a folder NAME for every encoder holds
input_ids.parquet, the questions in the same order as that encoder's own tokenizer has them, special tokens included,
and vocabulary.json, which says what these ids are.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow
from datasets import disable_progress_bars
from tqdm import tqdm

from qc.artifacts import new_folder, read_json, read_pieces, write_json, write_table
from qc.errors import QcError
from qc.questions import LabelledQuestion, label_encoding, parse
from qc.settings import Settings
from qc.texts import Vocabulary, load_tokenizer
from qc.tokens import question_tables, take_inventory, tokenize
from stages.entry import ENCODERS, FILES, INPUT_IDS, LABELS, QUESTIONS, RAW, TOKENIZED, VOCABULARY, run

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
    """Parse the files of questions, and turn every question into token ids of every encoder."""
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
    names = settings.fetch.encoder_names()
    disable_progress_bars()  # ours shows the whole
    total = inventory.questions * (1 + len(names))
    with (
        new_folder(TOKENIZED) as folder,
        tqdm(total=total, desc="tokenize", unit="question", leave=False, disable=None) as bar,
    ):

        def shown(tables: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
            for table in tables:
                bar.update(len(table))
                yield table.replace_schema_metadata(None)  # a fingerprint of this very code stands there

        questions = folder / QUESTIONS.name
        tables = question_tables(read_questions(), inventory.classes)
        write_table(questions, shown(table.data.table for table in tables))
        write_json(folder / LABELS.name, inventory.labels())
        for name in names:
            tokenizer = load_tokenizer(ENCODERS / name)
            vocabulary = Vocabulary.of_encoder(ENCODERS / name, tokenizer)
            pieces = read_pieces(questions, "text", "fine")
            ids = tokenize(pieces, tokenizer, vocabulary, own.lowercase, own.include_fine_label)
            (folder / name).mkdir()
            write_table(folder / name / INPUT_IDS, shown(ids))
            write_json(folder / name / VOCABULARY, {**vocabulary.record(), **own.model_dump()})
    print(f"{inventory.questions} questions of {len(inventory.classes)} classes, for {', '.join(names)}")


if __name__ == "__main__":
    run(main)
