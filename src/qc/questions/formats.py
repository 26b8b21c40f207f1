"""File formats of labelled questions.

    .label          `COARSE:fine question` a line, in latin-1, as Li and Roth published theirs (COLING 2002), in
                    Windows-1252 or in UTF-8
    .csv, .tsv      a table in UTF-8 whose first line names its columns, quoted as RFC 4180 has it
    .jsonl          a JSON object a line, in UTF-8

Notable:
- texts stay as they are written; labels are normalized (`qc.questions.text`)
- invalid lines are counted, the first ten are named, and nothing of such a file is used; blank lines are skipped
- a file is read as a stream, so its size does not matter to memory
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from qc.errors import QcError
from qc.questions.encodings import label_encoding, refuse_utf16, refuse_wrong_byte
from qc.questions.text import fault_of_label, fault_of_text, normalize_label

MOST_LINES_NAMED = 10
MOST_CHARACTERS_SHOWN = 80


@dataclass(frozen=True)
class LabelledQuestion:
    """A question with its coarse and fine class; the fine class is empty where there is none."""

    coarse: str
    fine: str
    text: str


Row = LabelledQuestion | str  # a string says why a line is invalid


def parse_questions(
    file: BinaryIO, file_format: str, columns: Mapping[str, str | None] | None, name: str
) -> Iterator[LabelledQuestion]:
    """Read the questions of a file; arguments and errors are as for `numbered_questions`."""
    return (question for _, question in numbered_questions(file, file_format, columns, name))


def numbered_questions(
    file: BinaryIO,
    file_format: str,
    columns: Mapping[str, str | None] | None,
    name: str,
    named_by: str = "fetch.columns of params.yaml",
) -> Iterator[tuple[int, LabelledQuestion]]:
    """Read the questions of a file, each with the number of its first line.

    Args:
        file: The file, read from its current position.
        file_format: Its extension.
        columns: Columns `text`, `label` and `fine` of a table; the last may be None.
        name: Its name in messages.
        named_by: What names the columns, in messages.

    Raises:
        QcError: A column or the encoding is invalid; at the end, where a line is invalid.
    """
    refuse_utf16(file, name)
    begin = file.tell()
    encoding = label_encoding(file) if file_format == ".label" else "utf-8-sig"
    file.seek(begin)
    table = file_format in (".csv", ".tsv")
    newline = "" if table else "\n"  # a text may contain other line ends
    text = io.TextIOWrapper(file, encoding, errors="qc_latin1", newline=newline)
    named = {use: column for use, column in (columns or {}).items() if column is not None}
    if file_format == ".label":
        rows = _label_lines(text)
    elif table:
        rows = _table_lines(text, "\t" if file_format == ".tsv" else ",", named, name, named_by)
    else:
        rows = _json_lines(text, named, named_by)
    try:
        yield from _checked(rows, name)
    except UnicodeDecodeError:
        file.seek(begin)
        refuse_wrong_byte(file, name)
        raise
    finally:
        text.detach()


def _checked(rows: Iterable[tuple[int, Row]], name: str) -> Iterator[tuple[int, LabelledQuestion]]:
    """Yield the valid questions with their lines; raise QcError at the end if there are none, or if one is invalid."""
    found, wrong, numbers = 0, 0, []
    for line, row in rows:
        if isinstance(row, LabelledQuestion):
            found += 1
            yield line, row
        else:
            wrong += 1
            if len(numbers) < MOST_LINES_NAMED:
                numbers.append(line)
            if wrong == 1:
                why = row
    if wrong:
        named = ", ".join(map(str, numbers))
        more = f" and {wrong - MOST_LINES_NAMED} more" if wrong > MOST_LINES_NAMED else ""
        raise QcError(f"{name}:{numbers[0]}: {why}; {wrong} such line(s) to correct: {named}{more}")
    if not found:
        raise QcError(f"{name}: empty; expected one question a line")


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number the lines, without line ends."""
    return ((number, line.removesuffix("\n")) for number, line in enumerate(lines, start=1))


def _label_lines(lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """Parse a label file: the label ends at the first white space, its first colon separates coarse from fine."""
    for number, line in _numbered(lines):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        end = next((place for place, character in enumerate(line) if character.isspace()), len(line))
        coarse, _, fine = line[:end].partition(":")
        coarse, fine, text = normalize_label(coarse), normalize_label(fine), line[end + 1 :]
        fault = fault_of_label(coarse) or fault_of_label(fine) or fault_of_text(text)
        yield number, f"{_shown(line)} is not 'COARSE:fine question'" if fault else LabelledQuestion(coarse, fine, text)


def _table_lines(
    lines: Iterable[str], delimiter: str, named: Mapping[str, str], name: str, named_by: str
) -> Iterator[tuple[int, Row]]:
    """Parse a table; each row has the number of its first line."""
    rows = read_table_rows(lines, delimiter, name)
    header = [column.strip() for column in next(rows, (1, []))[1]]
    places = {use: _place(column, header, f"{name}:1", named_by) for use, column in named.items()}
    for begins, row in rows:
        if len(row) <= 1 and not "".join(row).strip():
            continue  # a blank line
        if len(row) != len(header):
            yield begins, f"{len(row)} fields, {len(header)} columns"
        else:
            yield begins, _question({use: row[place] for use, place in places.items()}, named)


def read_table_rows(lines: Iterable[str], delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a table, the header among them, each with the number of its first line.

    Raises:
        QcError: Quotes are invalid.
    """
    csv.field_size_limit(sys.maxsize)  # the module's own limit is 131,072 characters
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in reader:
            yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise QcError(
            f"{name}:{begins}: {error}; a field with a quote, a line end or the delimiter must be quoted, and a quote "
            "in it doubled"
        ) from None


def _place(column: str, header: list[str], where: str, named_by: str) -> int:
    if header.count(column) != 1:
        found = "two or more columns" if column in header else "no column"
        raise QcError(f"{where}: {found} {column!r}, which {named_by} names; columns are: {', '.join(header)}")
    return header.index(column)


def _json_lines(lines: Iterable[str], named: Mapping[str, str], named_by: str) -> Iterator[tuple[int, Row]]:
    for number, line in _numbered(lines):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            yield number, f"{_shown(line)} is not JSON"
            continue
        if not isinstance(found, dict):
            yield number, f"{_shown(line)} is not a JSON object"
        elif missing := [column for column in named.values() if column not in found]:
            yield number, f"no {missing[0]!r}, which {named_by} names; keys are: {', '.join(found)}"
        else:
            yield number, _question({use: found[column] for use, column in named.items()}, named)


def _question(fields: Mapping[str, object], named: Mapping[str, str]) -> Row:
    """Make a question of its fields, or say why they are invalid."""
    for use, value in fields.items():
        label = use != "text"
        if not isinstance(value, str) and not (label and isinstance(value, int) and not isinstance(value, bool)):
            return f"{named[use]} is {value!r}, expected a text"
        if fault := fault_of_label(normalize_label(str(value))) if label else fault_of_text(value):
            return f"{named[use]} {fault}"
    coarse, fine = (normalize_label(str(fields.get(use, ""))) for use in ("label", "fine"))
    return LabelledQuestion(coarse, fine, str(fields["text"]))


def _shown(line: str) -> str:
    return repr(line[:MOST_CHARACTERS_SHOWN])
