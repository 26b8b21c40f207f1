"""The reader of questions under atheris, which looks for bytes that reach code no bytes before them reached.

    python -m tests.fuzz_parser 1000000     so many runs; needs `pip install atheris`

Whatever the bytes are: questions come out, each with a class and a text, or one QcError that names the file. Anything
else ends the search with a traceback and the bytes.
"""

import io
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qc.questions.reader", "csv", "json"]):
    from qc.questions.reader import read_questions

from qc.errors import QcError

ENDINGS = (".label", ".csv", ".tsv", ".jsonl")
COLUMNS = {"text": "text", "label": "label", "fine": "fine"}
HEADERS = {".csv": b"text,label,fine\n", ".tsv": b"text\tlabel\tfine\n"}
SEEDS = [b"HUM:ind Who ?\n", b'who ?,"a ""b""",c\n', b"who ?\ta\tb\n", b'{"text": "who ?", "label": 3, "fine": "b"}\n']


def run(data: bytes, seen: Counter) -> None:
    """Parse bytes, the first of which says in what format; half of the tables get a valid header."""
    if not data:
        data = b"\0"
    ending = ENDINGS[data[0] % len(ENDINGS)]
    content = (HEADERS.get(ending, b"") if data[0] & 4 else b"") + data[1:]
    try:
        questions = [found for _, found in read_questions(io.BytesIO(content), ending, COLUMNS, f"x{ending}")]
    except QcError as error:
        assert str(error).startswith(f"x{ending}:"), error
        seen["refused"] += 1
    else:
        assert questions
        assert all(question.coarse and question.text.strip() for question in questions)
        seen["read"] += 1


def main() -> None:
    """Search, and tell how many inputs were read and refused."""
    seen: Counter = Counter()
    runs = int(sys.argv[1])

    def one(data: bytes) -> None:
        run(data, seen)
        if seen.total() in (runs, *range(100_000, runs, 100_000)):
            print(f"{seen.total():,} inputs: {seen['read']:,} read, {seen['refused']:,} refused", flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            for right_header in (0, 4):
                (Path(corpus) / f"{number}-{right_header}").write_bytes(bytes([number + right_header]) + seed)
        options = [f"-runs={runs}", "-max_len=512", "-seed=1", "-timeout=10", "-verbosity=0", corpus]
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
