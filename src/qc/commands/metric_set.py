"""Metric sets: the numbers of a file of scores, and the predictions that they were computed from."""

import csv
import io
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qc.errors import QcError

SIZES = ("n_valid", "n_test")  # metrics that say how many questions were scored


@dataclass(frozen=True)
class MetricSet:
    """One side of a comparison.

    Attributes:
        metrics: Numbers by dotted name; NaN for a value that is no number.
        predictions: Rows of the scored predictions by id; None where there is no such file.
    """

    metrics: dict[str, float]
    predictions: dict[str, dict[str, str]] | None

    @property
    def size(self) -> float | None:
        """Number of scored questions; None where it is unknown."""
        return next((self.metrics[name] for name in SIZES if name in self.metrics), None)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """List the numbers of nested mappings by dotted name; any other value becomes NaN."""
    found = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            found[f"{prefix}{key}"] = float(value) if number else math.nan
    return found


def read_predictions(text: str, name: str) -> dict[str, dict[str, str]]:
    """Parse predictions from CSV, by id.

    Args:
        text: The content of the file.
        name: Its name in messages.

    Raises:
        QcError: A column id, text or label is missing, a row is incomplete, or an id occurs twice.
    """
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: dict[str, dict[str, str]] = {}
    try:
        missing = {"id", "text", "label"} - set(reader.fieldnames or [])
        if missing:
            raise QcError(f"{name}:1: no column {', '.join(sorted(missing))}; `dvc repro` makes it anew")
        for row in reader:
            if None in row or None in row.values():
                raise QcError(f"{name}:{reader.line_num}: not as many values as columns; `dvc repro` makes it anew")
            if row["id"] in rows:
                raise QcError(f"{name}:{reader.line_num}: id {row['id']} occurs twice; `dvc repro` makes it anew")
            rows[row["id"]] = row
    except csv.Error as error:
        raise QcError(f"{name}:{reader.line_num}: not CSV: {error}; `dvc repro` makes it anew") from None
    return rows


def question_difference(base: MetricSet, new: MetricSet) -> str | None:
    """Describe how the questions of two sides differ; None where they do not."""
    if base.predictions is None or new.predictions is None:
        before, after = base.size, new.size
        known = before is not None and after is not None
        return f"{before:g} of them, now {after:g}" if known and before != after else None
    removed = base.predictions.keys() - new.predictions.keys()
    added = new.predictions.keys() - base.predictions.keys()
    changed = [
        key
        for key in base.predictions.keys() & new.predictions.keys()
        if any(base.predictions[key][column] != new.predictions[key][column] for column in ("text", "label"))
    ]
    if not (removed or added or changed):
        return None
    return f"{len(removed)} removed, {len(added)} added, {len(changed)} with another text or label"
