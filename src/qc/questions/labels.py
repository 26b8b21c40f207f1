"""Class names and their numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = -1  # number of a fine class that is not known


@dataclass(frozen=True)
class Labels:
    """Names of the classes, in the order of their numbers.

    Attributes:
        classes: Coarse classes.
        fine_classes: Fine classes, each as (coarse, fine); empty for none.
    """

    classes: list[str]
    fine_classes: Sequence[Sequence[str]] = ()

    def record(self) -> dict[str, Any]:
        """Classes as a model's config.json holds them."""
        return {"classes": self.classes, "fine_classes": [list(pair) for pair in self.fine_classes]}

    def coarse_of(self) -> list[int]:
        """For each fine class, the number of its coarse class."""
        return [self.classes.index(coarse) for coarse, _ in self.fine_classes]


def join_fine(coarse: str, fine: str) -> str:
    """Name of a fine class in a table, `COARSE:fine`; colons of the coarse class are escaped."""
    return re.sub(r"([\\:])", r"\\\1", coarse) + f":{fine}"


def split_fine(name: str) -> tuple[str, str]:
    """Coarse and fine class of a name that `join_fine` made."""
    coarse, fine = re.fullmatch(r"((?:[^\\:]|\\.)*):(.*)", name, re.DOTALL).groups()
    return re.sub(r"\\(.)", r"\1", coarse), fine
