"""Parquet files: read whole, by rows, or piece by piece."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from qc.errors import QcError
from qc.files import new_file

PIECE = 65_536  # rows of a table that are read at a time


def read_table(path: Path, *columns: str) -> pyarrow.Table:
    """Read a Parquet output, all columns or the named ones; QcError where it is missing or broken."""
    with _readable(path):
        return pyarrow.parquet.read_table(path, columns=list(columns) or None)


def read_pieces(path: Path, *columns: str) -> Iterator[pyarrow.RecordBatch]:
    """Read the named columns of a Parquet output piece by piece; errors are as for `read_table`."""
    with _readable(path), pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(PIECE, columns=list(columns) or None)


def read_chosen(path: Path, rows: np.ndarray, *columns: str) -> Iterator[pyarrow.Table]:
    """Read the rows of ascending numbers piece by piece; errors are as for `read_table`."""
    begin = 0
    for piece in read_pieces(path, *columns):
        first, last = np.searchsorted(rows, (begin, begin + len(piece)))
        yield pyarrow.Table.from_batches([piece]).take(rows[first:last] - begin)
        begin += len(piece)


def read_column(path: Path, rows: np.ndarray, column: str) -> pyarrow.Array:
    """Read one column of the rows of these numbers, in their order; errors are as for `read_table`."""
    order = np.argsort(rows, kind="stable")
    pieces = [piece[column] for piece in read_chosen(path, rows[order], column)]
    found = pyarrow.chunked_array([chunk for piece in pieces for chunk in piece.chunks]).combine_chunks()
    return found.take(np.argsort(order, kind="stable"))


def count_rows(path: Path) -> int:
    """Number of rows of a Parquet output; QcError where it is missing or broken."""
    with _readable(path):
        return pyarrow.parquet.read_metadata(path).num_rows


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
