"""Labelled questions as files hold them: one class for a question, and the formats that it is read from.

    .label          `COARSE:fine question` a line, in latin-1, as Li and Roth published theirs (COLING 2002), in
                    Windows-1252 or in UTF-8
    .csv, .tsv      a table in UTF-8 whose first line names its columns, quoted as RFC 4180 has it
    .jsonl          a JSON object a line, in UTF-8

Notable:
- a question's text stays as it is written; labels are made one of a kind: without invisible characters, each run of
  white space one space, accents in Unicode's composed form (NFC)
- every line that cannot be used is counted, the first ten are named, and nothing of such a file is used; blank lines
  are passed over
- a file is read as a stream: its size does not matter to memory
"""

import codecs
import csv
import io
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from qc.errors import QcError

MOST_LINES_NAMED = 10
MOST_CHARACTERS_SHOWN = 80
LONGEST_LABEL = 200  # characters; a longer one is a text in the wrong column
BLOCK = 1 << 20  # bytes that are looked at together
# Characters that show nothing and part no words; joiners, which some scripts need, are not among them.
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


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
    _refuse_utf16(file, name)
    begin = file.tell()
    encoding = label_encoding(file) if file_format == ".label" else "utf-8-sig"
    file.seek(begin)
    table = file_format in (".csv", ".tsv")
    newline = "" if table else "\n"  # text may hold other "line ends"
    text = io.TextIOWrapper(file, encoding, errors="qc_latin1", newline=newline)
    wanted = {use: column for use, column in (columns or {}).items() if column is not None}
    if file_format == ".label":
        rows = _label_lines(text)
    elif table:
        rows = _table_lines(text, "\t" if file_format == ".tsv" else ",", wanted, name)
    else:
        rows = _json_lines(text, wanted)
    csv.field_size_limit(sys.maxsize)  # the module's own limit is 131,072 characters
    try:
        yield from _checked(rows, name)
    except UnicodeDecodeError:
        file.seek(begin)
        _refuse_wrong_byte(file, name)
        raise
    finally:
        text.detach()


def label_encoding(file: BinaryIO) -> str:
    """What a label file is written in, from where it stands.

    Returns:
        `ascii`; `utf-8-sig` where all of it can be read so, or its first bytes say so; else `cp1252`, which is latin-1
        but for the quotes and dashes that it has in the place of control characters.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    begin, ascii_alone = file.tell(), True
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
            ascii_alone = ascii_alone and block.isascii()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        file.seek(begin)
        return "utf-8-sig" if file.read(3) == codecs.BOM_UTF8 else "cp1252"
    return "ascii" if ascii_alone else "utf-8-sig"


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    """Decode the five bytes that Windows-1252 does not define; refuse others as ever."""
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "charmap":
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("qc_latin1", _as_latin1)


def strip_invisible(text: str) -> str:
    """The text without characters that show nothing, such as a zero-width space."""
    return text.translate(INVISIBLE)


def normalize_label(label: str) -> str:
    """A label as classes are told apart by."""
    return unicodedata.normalize("NFC", " ".join(strip_invisible(label).split()))


def fault_of_text(text: str) -> str | None:
    """Why a question cannot be used, in training or in use; None where it can."""
    if not strip_invisible(text).strip():
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half a character (a lone surrogate)"
    return None


def fault_of_label(label: str) -> str | None:
    """Why a normalized label cannot be used; None where it can."""
    if not label:
        return "is empty"
    if len(label) > LONGEST_LABEL:
        return f"is {len(label)} characters long, which is no label; at most {LONGEST_LABEL}"
    if wrong := next((each for each in label if unicodedata.category(each) in ("Cc", "Cs")), None):
        return f"holds {wrong!r}, which is no label"
    return None


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
    """Lines of a label file: the label is all before the first white space, its first colon parts coarse from fine."""
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
            if len(row) <= 1 and not "".join(row).strip():
                pass  # a blank line
            elif len(row) != len(header):
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
        if not line.strip():
            continue
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
        if fault := fault_of_label(normalize_label(str(value))) if label else fault_of_text(value):
            return f"{wanted[use]} {fault}"
    coarse, fine = (normalize_label(str(fields.get(use, ""))) for use in ("label", "fine"))
    return LabelledQuestion(coarse, fine, str(fields["text"]))


def _refuse_utf16(file: BinaryIO, name: str) -> None:
    """Raise QcError where the file, from where it stands, is UTF-16; else leave it as it was."""
    begin = file.tell()
    start = file.read(64)
    file.seek(begin)
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    unmarked = len(start) >= 8 and not (any(start[::2]) and any(start[1::2]))  # a zero in every other byte
    if marked or unmarked:
        raise QcError(f"{name}:1: is UTF-16, not UTF-8; convert the file: iconv -f utf-16 -t utf-8 {name} > utf8")


def _refuse_wrong_byte(file: BinaryIO, name: str) -> None:
    """Raise QcError on the first byte, from where a file stands, that is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise QcError(
                f"{name}:{number}: byte {line[error.start]:#04x} is not UTF-8; convert the file from what it is in; "
                f"from Windows' own for western languages: iconv -f windows-1252 -t utf-8 {name} > utf8"
            ) from None


def _shown(line: str) -> str:
    return repr(line[:MOST_CHARACTERS_SHOWN])
