"""Texts to classify, read one at a time from a file or standard input.

Notable:
- memory stays flat, whatever the size of the file
- a text keeps the number of its line, blank lines counted
"""

import codecs
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from qc.errors import QcError, from_the_top, reason
from qc.questions.formats import read_table_rows
from qc.questions.text import fault_of_text

DELIMITERS = {".csv": ",", ".tsv": "\t"}
Numbered = Iterator[tuple[int, str]]  # a text and the number of its line, from 1


def read_texts(file: Path | None, column: str = "text", skip_empty: bool = False) -> Numbered:
    """Read the texts of a file.

    Args:
        file: A .csv or .tsv file, a .jsonl file of objects, or a file with a text a line; None: standard input.
        column: Column of a table, or key of an object, that holds the text.
        skip_empty: Leave out empty texts, rather than refuse them.

    Raises:
        QcError: The file cannot be read, or a text is empty or malformed.
    """
    ending, name = (file.suffix.lower(), str(file)) if file else ("", "standard input")
    if ending == ".label":
        raise QcError(f"{name}: holds labels, too; put the texts into a file with one a line")
    count = 0
    with _opened(file, name) as stream:
        lines = _decoded(stream, name)
        if ending in DELIMITERS:
            texts = _table_texts(lines, DELIMITERS[ending], column, name)
        elif ending == ".jsonl":
            texts = ((number, _text_of(line, column, f"{name}:{number}", skip_empty)) for number, line in lines)
        else:
            texts = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in lines)
        for number, text in texts:
            if skip_empty and not text.strip():
                continue
            yield number, checked(text, f"{name}:{number}")
            count += 1
    if not count:
        raise QcError(f"{name}: no text; expected one a line")


def checked(text: str, where: str) -> str:
    """Return the text; QcError where it is empty or malformed."""
    if fault := fault_of_text(text):
        raise QcError(f"{where}: {fault}; give it some words, or leave it out")
    return text


@contextmanager
def _opened(file: Path | None, name: str) -> Iterator[BinaryIO]:
    if file is None:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise QcError(f"{name}: cannot be read: {reason(error)}{from_the_top()}") from None
    with stream:
        yield stream


def _decoded(stream: BinaryIO, name: str) -> Numbered:
    """Decode lines from UTF-8, without its mark, with their line ends."""
    try:
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                wrong = f"byte {error.start + 1} is {line[error.start]:#04x}, which is not UTF-8"
                raise QcError(f"{name}:{number}: {wrong}") from None
    except OSError as error:
        raise QcError(f"{name}: cannot be read: {reason(error)}{from_the_top()}") from None


def _table_texts(lines: Iterable[tuple[int, str]], delimiter: str, column: str, name: str) -> Numbered:
    """Read one column of a table; a row has the number of its first line."""
    rows = read_table_rows((line for _, line in lines), delimiter, name)
    header = [each.strip() for each in next(rows, (1, []))[1]]
    if header.count(column) != 1:
        found = f"columns are: {', '.join(header)}"
        raise QcError(f"{name}:1: --column: invalid value {column!r}; expected a column that is there once; {found}")
    place = header.index(column)
    for begins, row in rows:
        if row and len(row) != len(header):
            raise QcError(f"{name}:{begins}: {len(row)} fields; expected {len(header)}, one a column")
        yield begins, row[place] if row else ""


def _text_of(line: str, key: str, where: str, skip_empty: bool) -> str:
    if skip_empty and not line.strip():
        return ""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise QcError(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get(key), str):
        raise QcError(f'{where}: expected an object with a text, such as {{"{key}": "Who wrote Hamlet ?"}}')
    return found[key]
