"""The reader of question files: training data, corrections and the texts of `qc predict`.

    .label          `COARSE:fine question` a line, in UTF-8, else in Windows-1252 or latin-1, as Li and Roth published
                    theirs (COLING 2002)
    .csv, .tsv      a table in UTF-8 whose first line names its columns, quoted as RFC 4180 has it
    .jsonl          a JSON object a line, in UTF-8
    any other       a text a line, in UTF-8

Notable:
- lines end in LF, CRLF or CR; a line end inside a quoted field stays
- texts stay as they are written; labels are normalized (`qc.questions.text`)
- invalid lines are counted, the first twenty are named, and nothing of such a file is used; blank lines are skipped,
  except where each line is a text
- a file is read as a stream, so its size does not matter to memory
"""

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from qc.errors import QcError, listed, printable
from qc.questions.text import fault_of_label, fault_of_text, is_empty, normalize_label

BLOCK = 1 << 20  # bytes that are decoded at a time
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LABEL_LINE = re.compile(r"([^\s:]+):(\S+)\s(.*\S.*)", re.DOTALL)
MOST_CHARACTERS_SHOWN = 80
NOT_DECODED = re.compile("[\udc80-\udcff]")  # bytes that `surrogateescape` passed through
UNDEFINED = {0xDC00 + byte: byte for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}  # in Windows-1252: read as latin-1

Columns = Mapping[str, str | None]  # `text`, `label` and `fine` to the name of a column; None for no such column


@dataclass(frozen=True)
class LabelledQuestion:
    """A question with its coarse and fine class; a class is empty where it is unknown."""

    coarse: str
    fine: str
    text: str


Row = dict[str, Any] | str  # fields by use; a string says why the line is invalid


def read_questions(
    file: BinaryIO,
    file_format: str,
    columns: Columns | None,
    name: str,
    named_by: str = "fetch.columns of params.yaml",
    skip_empty: bool = False,
    encoding: str | None = None,
) -> Iterator[tuple[int, LabelledQuestion]]:
    """Read the questions of a file, each with the number of its first line.

    Args:
        file: The file; it can be read again.
        file_format: Its extension, in lower case.
        columns: Columns of a table, or keys of an object; None for the other formats.
        name: Its name in messages.
        named_by: What names the columns, in messages.
        skip_empty: Leave out empty texts, rather than refuse them.
        encoding: That of a label file, from `label_encoding`; detected if it is not given.

    Raises:
        QcError: A column or the encoding is invalid; at the end, where a line is invalid, or there is no question.
    """
    _refuse_utf16(file, name)
    encoding = encoding or (label_encoding(file) if file_format == ".label" else "utf-8-sig")
    file.seek(0)
    newline = "" if file_format in DELIMITERS else None  # a quoted field keeps its line ends
    stream = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline=newline)
    lines = _decoded(stream, encoding, name)
    named = {use: column for use, column in (columns or {}).items() if column is not None}
    if file_format in DELIMITERS:
        rows = _table(lines, DELIMITERS[file_format], named, name, named_by)
    elif file_format == ".jsonl":
        rows = ((number, _json_row(line, named, named_by)) for number, line in _filled(lines))
    elif file_format == ".label":
        rows = ((number, _label_row(line)) for number, line in _filled(lines))
    else:
        rows = ((number, {"text": line.removesuffix("\n")}) for number, line in enumerate(lines, start=1))
    count, wrong, why = 0, [], ""
    try:
        for number, row in rows:
            text = row["text"] if isinstance(row, dict) else None
            if skip_empty and isinstance(text, str) and is_empty(text):
                continue
            question = _question(row, named) if isinstance(row, dict) else row
            if isinstance(question, LabelledQuestion):
                count += 1
                yield number, question
            else:
                wrong.append(str(number))
                why = why or question
    finally:
        stream.detach()
    if wrong:
        raise QcError(f"{name}:{wrong[0]}: {why}; {len(wrong)} such line(s) to correct: {listed(wrong)}")
    if not count:
        raise QcError(f"{name}: empty; expected one question a line")


def label_encoding(file: BinaryIO) -> str:
    """Detect the encoding of a label file.

    Returns:
        `ascii`; `utf-8-sig` where all of it is valid UTF-8, or it begins with UTF-8's mark; else `cp1252`, which is
        latin-1 with quotes and dashes in the place of some control characters.
    """
    file.seek(0)
    decoder, ascii_alone = codecs.getincrementaldecoder("utf-8")(), True
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
            ascii_alone = ascii_alone and block.isascii()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        file.seek(0)
        return "utf-8-sig" if file.read(3) == codecs.BOM_UTF8 else "cp1252"
    return "ascii" if ascii_alone else "utf-8-sig"


def _refuse_utf16(file: BinaryIO, name: str) -> None:
    file.seek(0)
    start = file.read(64)
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    unmarked = len(start) >= 8 and not (any(start[::2]) and any(start[1::2]))  # a zero in every other byte
    if marked or unmarked:
        raise QcError(f"{name}:1: is UTF-16, not UTF-8; convert it: iconv -f utf-16 -t utf-8 FILE > NEW")


def _decoded(lines: Iterable[str], encoding: str, name: str) -> Iterator[str]:
    """Yield the lines as they are; QcError for the first byte that is not of the encoding."""
    for number, line in enumerate(lines, start=1):
        if line.isascii():
            yield line
        elif encoding == "cp1252":
            yield line.translate(UNDEFINED)
        elif wrong := NOT_DECODED.search(line):
            raise QcError(
                f"{name}:{number}: byte {ord(wrong[0]) - 0xDC00:#04x} is not UTF-8; convert the file from what it is "
                "in; from Windows' western encoding: iconv -f windows-1252 -t utf-8 FILE > NEW"
            )
        else:
            yield line


def _filled(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number the lines, without their ends; leave out blank ones."""
    return ((number, line.removesuffix("\n")) for number, line in enumerate(lines, start=1) if line.strip())


def _label_row(line: str) -> Row:
    """Split a line of a label file: the first white space ends the label, whose first colon parts coarse from fine."""
    parts = LABEL_LINE.fullmatch(line)
    if not parts:
        return f"{line[:MOST_CHARACTERS_SHOWN]!r} is not 'COARSE:fine question'"
    return dict(zip(("label", "fine", "text"), parts.groups(), strict=True))


def _table(
    lines: Iterable[str], delimiter: str, named: Mapping[str, str], name: str, named_by: str
) -> Iterator[tuple[int, Row]]:
    """Read the rows of a table, each with the number of its first line; QcError where quotes are invalid."""
    csv.field_size_limit(sys.maxsize)  # the module's own limit is 131,072 characters
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins, header = 1, None
    try:
        for row in reader:
            if header is None:
                header = [column.strip() for column in row]
                places = {use: _place(column, header, f"{name}:1", named_by) for use, column in named.items()}
            elif len(row) == len(header):
                yield begins, {use: row[place] for use, place in places.items()}
            elif "".join(row[:1]).strip() or len(row) > 1:  # not a blank line
                yield begins, f"{len(row)} fields, {len(header)} columns"
            begins = reader.line_num + 1
    except csv.Error as error:
        raise QcError(
            f"{name}:{begins}: {error}; a field with a quote, a line end or the delimiter must be quoted, and a quote "
            "in it doubled"
        ) from None


def _place(column: str, header: list[str], where: str, named_by: str) -> int:
    if header.count(column) != 1:
        number = "two or more columns" if column in header else "no column"
        raise QcError(
            f"{where}: {number} {column!r}, which {named_by} names; columns are: {printable(', '.join(header))}"
        )
    return header.index(column)


def _json_row(line: str, named: Mapping[str, str], named_by: str) -> Row:
    try:
        content = json.loads(line, object_pairs_hook=tuple)  # a tuple of pairs shows a key that is there twice
    except (ValueError, RecursionError):
        return f"{line[:MOST_CHARACTERS_SHOWN]!r} is not JSON"
    if not isinstance(content, tuple):
        return f"{line[:MOST_CHARACTERS_SHOWN]!r} is not a JSON object"
    keys = [key for key, _ in content]
    for column in named.values():
        if keys.count(column) != 1:
            number = "two or more" if column in keys else "no"
            return f"{number} {column!r}, which {named_by} names; keys are: {printable(', '.join(keys))}"
    fields = dict(content)
    return {use: fields[column] for use, column in named.items()}


def _question(fields: Mapping[str, Any], named: Mapping[str, str]) -> LabelledQuestion | str:
    """Make a question of its fields, or say why they are invalid."""
    labels = {"label": "", "fine": ""}
    for use, value in fields.items():
        if use == "text":
            fault = fault_of_text(value)
        elif use == "fine" and (value is None or value == ""):
            continue  # an unknown fine class
        elif isinstance(value, str) or type(value) is int:
            labels[use] = normalize_label(str(value))
            fault = fault_of_label(labels[use])
        else:
            fault = f"is {value!r:.80}, expected a text"
        if fault:
            return f"{named.get(use, use)} {fault}"
    return LabelledQuestion(labels["label"], labels["fine"], fields["text"])
