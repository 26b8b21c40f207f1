"""Outputs, written whole or not at all, and the same bytes for the same content.

Notable:
- files and folders are made beside their place, flushed to the disk and renamed into it
- JSON keeps the order it was given, numbers are rounded to six digits: enough for any difference that means something
- no times, paths or host names
"""

import csv
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from qc.errors import QcError, reason

DIGITS = 6
LONGEST_TEXT = 10_000  # characters of a text in a CSV file
PIECE = 65_536  # rows of a table that are read at once
TEMPORARY = r"\.(.+)\.(\d+)\.tmp(?:\.old)?"  # of what it is to become, and the process that writes it


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; flushed to the disk and renamed to `path` when the block ends well.

    Raises:
        QcError: It could not be written; what was at `path` stays.
    """
    with writing(path):
        temporary = _temporary(path)
        try:
            yield temporary
            temporary.chmod(0o644)
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path`; it takes the place of `path` when the block ends well.

    Raises:
        QcError: It could not be written; what was at `path` stays.
    """
    with writing(path):
        temporary = _temporary(path)
        try:
            temporary.mkdir()
            yield temporary
            temporary.chmod(0o755)
            for written in temporary.iterdir():
                _flush(written)
            old = temporary.with_name(f"{temporary.name}.old")
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder for some of these files; they take their places in `folder` when the block ends well.

    Others of `names` that are in `folder` are removed then; what else is in it stays.

    Raises:
        QcError: They could not be written; what was there stays.
    """
    with writing(folder):
        temporary = _temporary(folder)
        try:
            temporary.mkdir()
            yield temporary
            for written in temporary.iterdir():
                written.chmod(0o644)
                _flush(written)
            folder.mkdir(exist_ok=True)
            for name in names:
                if (temporary / name).exists():
                    (temporary / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
            _flush(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise QcError, which tells what to do, where the system does not let `path` be written."""
    try:
        yield
    except OSError as error:
        shown = Path(*(re.sub(TEMPORARY, r"\1", part) for part in path.parts))  # a file of a new folder
        raise QcError(
            f"{shown}: cannot be written: {reason(error)}; what was there stays; make room, or the folder writable, "
            "and run the same command again"
        ) from None


def _temporary(path: Path) -> Path:
    """A free name beside `path`, of this process; what processes that were killed left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        found = re.fullmatch(TEMPORARY, left.name)
        if found and found[1] == path.name and not _alive(int(found[2])):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _flush(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's names: a rename must not outlive what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, floats rounded; NaN and infinity are refused."""
    text = json.dumps(rounded(content), indent=2, ensure_ascii=False, allow_nan=False)
    with new_file(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], inert: bool = False) -> None:
    """Write rows as CSV with a header, floats rounded.

    Args:
        path: The file.
        header: Names of the columns.
        rows: Their values.
        inert: Put an apostrophe before texts that a spreadsheet would run as a formula.
    """
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_inert(rounded(value)) if inert else rounded(value) for value in row] for row in rows)


def _inert(value: Any) -> Any:
    """A text as a spreadsheet shows it, whatever it begins with; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


def shortened(text: str) -> str:
    """A text as CSV files hold it: readers of CSV, DVC's among them, refuse a field of more than 131,072 characters.

    A longer one than `LONGEST_TEXT` is cut, and its length and SHA-256 say which text it was.
    """
    if len(text) <= LONGEST_TEXT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:LONGEST_TEXT]} ... ({len(text)} characters, SHA-256 {digest})"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours; QcError where it is missing or broken."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QcError(f"{path}: cannot be read: {reason(error)}; `dvc repro` makes it anew") from None
    except ValueError as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def parse_json(text: str) -> dict[str, Any]:
    """The object that a JSON text holds; ValueError where it holds none."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected keys and values, found {type(content).__name__}")
    return content


def read_table(path: Path, *columns: str) -> pyarrow.Table:
    """Read a Parquet file of ours, all columns or the named ones; QcError where it is missing or broken."""
    with _readable(path):
        return pyarrow.parquet.read_table(path, columns=list(columns) or None)


def read_pieces(path: Path, *columns: str) -> Iterator[pyarrow.RecordBatch]:
    """Read the named columns of a Parquet file of ours piece by piece; errors are as for `read_table`."""
    with _readable(path), pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(PIECE, columns=list(columns) or None)


def read_chosen(path: Path, rows: np.ndarray, *columns: str) -> Iterator[pyarrow.Table]:
    """Read the rows of these numbers, which ascend, piece by piece; the rest is as for `read_pieces`."""
    begin = 0
    for piece in read_pieces(path, *columns):
        first, last = np.searchsorted(rows, (begin, begin + len(piece)))
        yield pyarrow.Table.from_batches([piece]).take(rows[first:last] - begin)
        begin += len(piece)


def read_column(path: Path, rows: np.ndarray, column: str) -> pyarrow.Array:
    """One column of the rows of these numbers, in their order; the rest is as for `read_table`."""
    order = np.argsort(rows, kind="stable")
    pieces = [piece[column] for piece in read_chosen(path, rows[order], column)]
    found = pyarrow.chunked_array([chunk for piece in pieces for chunk in piece.chunks]).combine_chunks()
    return found.take(np.argsort(order, kind="stable"))


def write_table(path: Path, pieces: Iterable[pyarrow.Table]) -> None:
    """Write tables of one shape, at least one, as one Parquet file."""
    pieces = iter(pieces)
    with new_file(path) as temporary:
        first = next(pieces)
        with pyarrow.parquet.ParquetWriter(temporary, first.schema) as writer:
            for piece in chain([first], pieces):
                writer.write_table(piece)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rounded(value: Any) -> Any:
    """A value as it is written: floats with six digits, wherever they are in it."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value
