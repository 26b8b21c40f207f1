"""tokenize: read the question files and tokenize every question for every encoder.

Reads data/raw and the tokenizers in data/encoders. Writes, for every encoder, data/tokenized/NAME/questions.parquet:
all questions with their classes and token ids, special tokens included; and NAME/vocabulary.json, which describes the
tokenizer.
"""

import sys
from collections import Counter

from qc.config.settings import Settings
from qc.errors import QcError
from qc.paths import ENCODERS, FILES, RAW, TOKENIZED
from qc.stage import run


def main(settings: Settings) -> None:
    """Read the files twice: once to know the classes and refuse invalid lines, once to write the tables."""
    from qc.files import new_folder, write_json
    from qc.questions.raw import ENCODINGS, load_files, read_raw
    from qc.questions.tables import VOCABULARY
    from qc.questions.text import case_twins
    from qc.questions.tokenized import take_inventory, write_tokenized
    from qc.questions.tokenizers import describe_tokenizer, load_tokenizer

    config, names = settings.tokenize, settings.fetch.encoder_names()
    files = load_files(FILES)
    for about in files.values():
        if "encoding" in about:
            print(f"{about['name']}: read as {ENCODINGS[about['encoding']]}")
    corrected: Counter[str] = Counter()
    labels, count, without_fine = take_inventory(read_raw(RAW, files, corrected))
    if "corrections" in files:
        name, changed, same = files["corrections"]["name"], corrected["changed"], corrected["same"]
        print(f"{name}: {changed} question(s) of fetch.train got another label, {same} had it already")
    for one, other in case_twins(labels.classes):
        print(f"warning: {one!r} and {other!r} are two classes, though letter case alone differs", file=sys.stderr)
    if config.include_fine_label and without_fine:
        raise QcError(
            "params.yaml: tokenize.include_fine_label: invalid value True; expected false, since "
            f"{without_fine} question(s) have no fine label"
        )
    with new_folder(TOKENIZED) as folder:
        tokenizers = []
        for name in names:
            tokenizer = load_tokenizer(ENCODERS / name)
            vocabulary = describe_tokenizer(ENCODERS / name, tokenizer, config.lowercase, config.include_fine_label)
            write_json(folder / name / VOCABULARY, vocabulary.record())
            tokenizers.append((tokenizer, vocabulary))
        write_tokenized(read_raw(RAW, files), labels, count, tokenizers, folder)
    print(f"{count} questions of {len(labels.classes)} classes, for {', '.join(names)}")


if __name__ == "__main__":
    run(main)
