"""tokenize: parse the question files and tokenize every question for every encoder.

Reads data/raw and the tokenizers in data/encoders. Writes data/tokenized: questions.parquet; labels.json, the class
names; and for every encoder NAME/input_ids.parquet, the token ids in the order of the questions, special tokens
included, and NAME/vocabulary.json.
"""

from collections.abc import Iterator

from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import ENCODERS, FILES, INPUT_IDS, LABELS, QUESTIONS, RAW, TOKENIZED, VOCABULARY
from qc.stage import run


def main(settings: Settings) -> None:
    """Write the questions, then the ids of every tokenizer."""
    from tqdm import tqdm

    from qc.files import new_folder, read_json, write_json
    from qc.questions.parquet import read_pieces, write_table
    from qc.questions.raw import read_raw, report_encodings
    from qc.questions.tables import question_tables, take_inventory, tokenize
    from qc.questions.tokenizers import Vocabulary, load_tokenizer

    config, names = settings.tokenize, settings.fetch.encoder_names()
    files = read_json(FILES)
    for line in report_encodings(RAW, files):
        print(line)
    inventory = take_inventory(read_raw(RAW, files))
    if config.include_fine_label and inventory.without_fine:
        raise QcError(
            "params.yaml: tokenize.include_fine_label: invalid value True; expected false, since "
            f"{inventory.without_fine} question(s) have no fine label"
        )
    total = inventory.questions * (1 + len(names))
    with (
        new_folder(TOKENIZED) as folder,
        tqdm(total=total, desc="tokenize", unit="question", leave=False, disable=None) as bar,
    ):

        def counted(tables: Iterator) -> Iterator:
            for table in tables:
                bar.update(len(table))
                yield table

        questions = folder / QUESTIONS.name
        write_table(questions, counted(question_tables(read_raw(RAW, files), inventory.labels.classes)))
        write_json(folder / LABELS.name, inventory.labels.record())
        for name in names:
            tokenizer = load_tokenizer(ENCODERS / name)
            vocabulary = Vocabulary.of_encoder(ENCODERS / name, tokenizer, config.lowercase, config.include_fine_label)
            (folder / name).mkdir()
            pieces = read_pieces(questions, "text", "fine")
            write_table(folder / name / INPUT_IDS, counted(tokenize(pieces, tokenizer, vocabulary)))
            write_json(folder / name / VOCABULARY, vocabulary.record())
    print(f"{inventory.questions} questions of {len(inventory.labels.classes)} classes, for {', '.join(names)}")


if __name__ == "__main__":
    run(main)
