"""Files: atomic writes, JSON, CSV and hashes.

Notable:
- files and folders are written beside their place, flushed to the disk and renamed into it
- the same content gives the same bytes: JSON keeps the given order, numbers are rounded to six digits
"""

import csv
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from qc.errors import QcError, reason

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"  # of weights in several files
RECORD = "source.json"  # beside them: what they are and where they are from

DIGITS = 6
FORMULA = re.compile(r"'*\s*[=+\-@]")  # the start of one, in a spreadsheet, behind any number of our apostrophes
CRLF = "\r\n"
LONGEST_TEXT = 10_000  # characters of a text in a CSV file
TEMPORARY = r"\.(.+)\.(\d+)\.tmp(?:\.old)?"  # final name, and number of the process that writes


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; the file replaces `path` when the block ends without an error."""
    with _replacement(path) as temporary:
        yield temporary
        temporary.chmod(0o644)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; it replaces `path` when the block ends without an error."""
    with _replacement(path) as temporary:
        temporary.mkdir()
        yield temporary
        temporary.chmod(0o755)  # whatever the umask, as files are 0644


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Give a path beside `path`; what is written there is flushed to the disk and renamed to `path`.

    Raises:
        QcError: It could not be written; what was at `path` stays.
    """
    with write_errors(path):
        temporary = _temporary(path)
        old = temporary.with_name(f"{temporary.name}.old")
        try:
            yield temporary
            for written in (temporary, *temporary.rglob("*")):
                if not written.is_symlink():
                    _flush(written)
            if temporary.is_dir() and path.exists():
                path.rename(old)  # no folder can be renamed to one that is there
            temporary.rename(path)
            _flush(path.parent)
        finally:
            with suppress(OSError):  # the next writer tries again
                if os.path.lexists(old) and not os.path.lexists(path):  # stopped between the two renames
                    old.rename(path)
                _remove(old)
                _remove(temporary)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a QcError that says what to do."""
    try:
        yield
    except OSError as error:
        shown = Path(*(re.sub(TEMPORARY, r"\1", part) for part in path.parts))  # a file in a new folder
        raise QcError(
            f"{shown}: cannot be written: {reason(error)}; what was there stays; make room, or the folder writable, "
            "and run the same command again"
        ) from None


def _temporary(path: Path) -> Path:
    """Choose a name beside `path` for this process; remove what killed processes left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        parts = re.fullmatch(TEMPORARY, left.name)
        if parts and parts[1] == path.name and not _alive(int(parts[2])):
            _remove(left)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs for another user
    return True


def _remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, floats rounded; NaN and infinity are refused."""
    text = json.dumps(round_floats(content), indent=2, ensure_ascii=False, allow_nan=False)
    with new_file(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def csv_writer(file: TextIO) -> Any:
    """Make a writer of CSV rows whose lines end in LF.

    Python before 3.11.9 and 3.12.3 quotes a lone CR only where it is part of the line end, so rows are made with CRLF.
    """
    lines = SimpleNamespace(write=lambda row: file.write(f"{row.removesuffix(CRLF)}\n"))
    return csv.writer(lines, lineterminator=CRLF)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], inert: bool = False) -> None:
    """Write rows as CSV with a header, floats rounded; `inert` passes every value through `escape_formula`."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(header)
        for row in rows:
            values = [round_floats(value) for value in row]
            writer.writerow(map(escape_formula, values) if inert else values)


def escape_formula(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    A text that already has such apostrophes gets one more, so that `unescape_formula` restores every text.
    """
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def unescape_formula(text: str) -> str:
    """Remove the apostrophe of `escape_formula`."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def truncate_text(text: str) -> str:
    """Cut a text longer than `LONGEST_TEXT`, and append its length and SHA-256.

    Readers of CSV, DVC's among them, refuse a field of more than 131,072 characters.
    """
    if len(text) <= LONGEST_TEXT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:LONGEST_TEXT]} ... ({len(text)} characters, SHA-256 {digest})"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON output; QcError where it is missing or broken."""
    with read_errors(path):
        return parse_json(path.read_text(encoding="utf-8"))


@contextmanager
def read_errors(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn the error of a missing or broken output into a QcError; `kinds` are a library's own errors."""
    try:
        yield
    except (OSError, ValueError, *kinds) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise QcError(f"{path}: cannot be read: {why}; run `dvc repro` to recreate it") from None


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object; ValueError where the text holds none."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected keys and values, found {type(content).__name__}")
    return content


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def round_floats(value: Any) -> Any:
    """Round every float in a value to six digits."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_floats(item) for item in value]
    return value


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV output, its rows by column; QcError where it is missing or broken."""
    with read_errors(path, csv.Error), path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def encoder_files(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Choose an encoder's files among those of a folder or repository; some of them may be missing there.

    Weights are `model.safetensors`, or else its index and the shards, named `model-00001-of-00003.safetensors`.
    """
    weights = [WEIGHTS]
    if WEIGHTS not in names and WEIGHTS_INDEX in names:
        shards = filter(None, (re.fullmatch(r"model-\d{5}-of-(\d{5})\.safetensors", name) for name in names))
        count = next((int(shard[1]) for shard in shards), 1)
        weights = [WEIGHTS_INDEX, *(f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1))]
    return [CONFIG, *weights, TOKENIZER]


def missing_files(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    """The files of an encoder that a folder or repository lacks."""
    return [name for name in encoder_files(names) if name not in names]
