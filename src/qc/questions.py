"""Labelled questions as files hold them: one class for a question, and the formats that it is read from.

    .label          `COARSE:fine question` a line, in latin-1, as Li and Roth published theirs (COLING 2002)
    .csv, .tsv      a table in UTF-8 whose first line names its columns, quoted as RFC 4180 has it
    .jsonl          a JSON object a line, in UTF-8

Notable:
- a question's text stays as it is written; labels lose the space around them
- every line that cannot be used is counted, the first ten are named, and nothing of such a file is used
- a file is read as a stream: its size does not matter to memory
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from qc.errors import QcError

MOST_LINES_NAMED = 10
MOST_CHARACTERS_SHOWN = 80


@dataclass(frozen=True)
class LabelledQuestion:
    """A question, its coarse class and its fine one; the latter empty where there is none."""

    coarse: str
    fine: str
    text: str


Row = LabelledQuestion | str  # of a line that cannot be used, why


def parse(
    file: BinaryIO, file_format: str, columns: Mapping[str, str | None] | None, name: str
) -> Iterator[LabelledQuestion]:
    """Read a file of questions, one by one.

    Args:
        file: The file, from where it stands to its end.
        file_format: Its ending.
        columns: Of a table, which column holds `text`, `label` and `fine`; the last may be None.
        name: What messages call it.

    Raises:
        QcError: A column or an encoding that cannot be used; when all is read, a line that cannot.
    """
    begin = file.tell()
    encoding = "latin-1" if file_format == ".label" else "utf-8-sig"
    table = file_format in (".csv", ".tsv")
    text = io.TextIOWrapper(file, encoding, newline="" if table else "\n")  # text may hold other "line ends"
    wanted = {use: column for use, column in (columns or {}).items() if column is not None}
    if file_format == ".label":
        rows = _label_lines(text)
    elif table:
        rows = _table_lines(text, "\t" if file_format == ".tsv" else ",", wanted, name)
    else:
        rows = _json_lines(text, wanted)
    try:
        yield from _checked(rows, name)
    except UnicodeDecodeError:
        file.seek(begin)
        _refuse_wrong_byte(file, name)
        raise
    finally:
        text.detach()


def _checked(rows: Iterable[tuple[int, Row]], name: str) -> Iterator[LabelledQuestion]:
    """The questions; QcError at the end if there are none, or if a line cannot be used."""
    found, wrong, numbers = 0, 0, []
    for line, row in rows:
        if isinstance(row, LabelledQuestion):
            found += 1
            yield row
        else:
            wrong += 1
            if len(numbers) < MOST_LINES_NAMED:
                numbers.append(line)
            if wrong == 1:
                why = row
    if wrong:
        named = ", ".join(map(str, numbers))
        more = f" and {wrong - MOST_LINES_NAMED} more" if wrong > MOST_LINES_NAMED else ""
        raise QcError(f"{name}:{numbers[0]}: {why}; {wrong} such line(s) to put right: {named}{more}")
    if not found:
        raise QcError(f"{name}: empty; expected a question a line")


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, the last with or without a line end."""
    return ((number, line.removesuffix("\n")) for number, line in enumerate(lines, start=1))


def _label_lines(lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """Lines of a label file: the label is all before the first space, its first colon parts coarse from fine."""
    for number, line in _numbered(lines):
        label, _, text = line.removesuffix("\r").partition(" ")
        coarse, _, fine = label.partition(":")
        if coarse and fine and text.strip():
            yield number, LabelledQuestion(coarse, fine, text)
        else:
            yield number, f"{_shown(line)} is not 'COARSE:fine question'"


def _table_lines(
    lines: Iterable[str], delimiter: str, wanted: Mapping[str, str], name: str
) -> Iterator[tuple[int, Row]]:
    """Rows of a table, each with the line on which it begins."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins = 1
    try:
        header = [column.strip() for column in next(reader, [])]
        places = {use: _place(column, header, f"{name}:1", f"fetch.columns.{use}") for use, column in wanted.items()}
        begins = reader.line_num + 1
        for row in reader:
            if len(row) != len(header):
                yield begins, f"{len(row)} fields, {len(header)} columns"
            else:
                yield begins, _question({use: row[place] for use, place in places.items()}, wanted)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise QcError(
            f"{name}:{begins}: {error}; a field that holds a quote, a line end or the delimiter stands in quotes, and "
            "a quote in it is written twice"
        ) from None


def _place(column: str, header: list[str], where: str, key: str) -> int:
    if header.count(column) != 1:
        found = "twice or more" if column in header else "no such column"
        raise QcError(
            f"{where}: {column!r}: {found}; params.yaml has {key}: {column}; columns are: {', '.join(header)}"
        )
    return header.index(column)


def _json_lines(lines: Iterable[str], wanted: Mapping[str, str]) -> Iterator[tuple[int, Row]]:
    for number, line in _numbered(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            yield number, f"{_shown(line)} is not JSON"
            continue
        if not isinstance(found, dict):
            yield number, f"{_shown(line)} is not a JSON object"
        elif missing := [column for column in wanted.values() if column not in found]:
            yield number, f"no {missing[0]!r}, which fetch.columns of params.yaml names; keys are: {', '.join(found)}"
        else:
            yield number, _question({use: found[column] for use, column in wanted.items()}, wanted)


def _question(fields: Mapping[str, object], wanted: Mapping[str, str]) -> Row:
    """A question from its fields, or what is wrong with them."""
    for use, value in fields.items():
        label = use != "text"
        if not isinstance(value, str) and not (label and isinstance(value, int) and not isinstance(value, bool)):
            return f"{wanted[use]} is {value!r}, which is no text"
        if not str(value).strip():
            return f"{wanted[use]} is empty"
        if any("\ud800" <= character <= "\udfff" for character in str(value)):
            return f"{wanted[use]} holds half a character (a lone surrogate)"
    coarse, fine = (str(fields.get(use, "")).strip() for use in ("label", "fine"))
    return LabelledQuestion(coarse, fine, str(fields["text"]))


def _refuse_wrong_byte(file: BinaryIO, name: str) -> None:
    """Raise QcError on the first byte, from where a file stands, that is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise QcError(
                f"{name}:{number}: byte {line[error.start]:#04x} is not UTF-8; convert the file, such as: "
                f"iconv -f latin1 -t utf-8 {name} > utf8"
            ) from None


def _shown(line: str) -> str:
    return repr(line[:MOST_CHARACTERS_SHOWN])
