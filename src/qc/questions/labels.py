"""Class names and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow

from qc.files import read_json

UNKNOWN = -1  # number of a fine class that is not known


@dataclass(frozen=True)
class Labels:
    """Names of the classes, in the order of their numbers.

    Attributes:
        classes: Coarse classes.
        fine_classes: Fine classes, each as (coarse, fine); empty for none.
    """

    classes: list[str]
    fine_classes: Sequence[Sequence[str]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read labels.json."""
        return cls(**read_json(path))

    def record(self) -> dict[str, Any]:
        """Content of labels.json."""
        return {"classes": self.classes, "fine_classes": [list(pair) for pair in self.fine_classes]}

    def coarse_of(self) -> list[int]:
        """For each fine class, the number of its coarse class."""
        return [self.classes.index(coarse) for coarse, _ in self.fine_classes]

    def fine_numbers(self, labels: np.ndarray, fine: pyarrow.StringArray) -> np.ndarray | None:
        """Number (N,) of each question's fine class, or `UNKNOWN`; None without fine classes.

        Args:
            labels: (N,) numbers of the coarse classes.
            fine: (N,) names of the fine classes.
        """
        if not self.fine_classes:
            return None
        fine = fine.dictionary_encode()
        columns = {name: column for column, name in enumerate(fine.dictionary.to_pylist())}
        numbers = np.full((len(self.classes), len(columns)), UNKNOWN)
        for number, (coarse, name) in enumerate(self.fine_classes):
            if name in columns:
                numbers[self.classes.index(coarse), columns[name]] = number
        return numbers[labels, fine.indices.to_numpy()]
