"""Encodings of question files: detected, or refused with the command that converts the file."""

import codecs
from typing import BinaryIO

from qc.errors import QcError

BLOCK = 1 << 20  # bytes that are decoded at a time


def label_encoding(file: BinaryIO) -> str:
    """Detect the encoding of a label file, from its current position.

    Returns:
        `ascii`; `utf-8-sig` where all of it is valid UTF-8, or it begins with UTF-8's mark; else `cp1252`, which is
        latin-1 with quotes and dashes in the place of some control characters.
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
    """Decode the five bytes that Windows-1252 does not define as latin-1; raise any other error."""
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "charmap":
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("qc_latin1", _as_latin1)


def refuse_utf16(file: BinaryIO, name: str) -> None:
    """Raise QcError where the file is UTF-16; the position stays."""
    begin = file.tell()
    start = file.read(64)
    file.seek(begin)
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    unmarked = len(start) >= 8 and not (any(start[::2]) and any(start[1::2]))  # a zero in every other byte
    if marked or unmarked:
        raise QcError(f"{name}:1: is UTF-16, not UTF-8; convert the file: iconv -f utf-16 -t utf-8 {name} > utf8")


def refuse_wrong_byte(file: BinaryIO, name: str) -> None:
    """Raise QcError for the first byte that is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise QcError(
                f"{name}:{number}: byte {line[error.start]:#04x} is not UTF-8; convert the file from what it is in; "
                f"from Windows' western encoding: iconv -f windows-1252 -t utf-8 {name} > utf8"
            ) from None
