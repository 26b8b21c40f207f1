"""Geometry of the report's line charts; report_page.html draws them as inline SVG and gives the colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 62, 508, 28, 312  # edges of the plot in a picture of 520 x 360
Point = tuple[float, float, float]  # x, y, and the radius of its dot


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Sequence[Point]],
    unit_square: bool = False,
    least_step: float = 0.0,
) -> dict[str, Any]:
    """Place the points of each model's line, in the order of x, and the marks of both axes in the picture.

    With `unit_square` both axes go from 0 to 1, with the diagonal; otherwise they are as long as the points need.
    `least_step` is the least distance of two marks of the horizontal axis.
    """
    points = [point for line in lines.values() for point in line]
    x_range, y_range = ((0.0, 1.0) if unit_square else _range([point[axis] for point in points]) for axis in (0, 1))

    def across(x: float) -> float:
        return round(LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (RIGHT - LEFT), 1)

    def down(y: float) -> float:
        return round(BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (BOTTOM - TOP), 1)

    return {
        "title": title,
        "x_label": x_label,
        "y_label": y_label,
        "x_marks": [(across(mark), f"{mark:.6g}") for mark in _marks(*x_range, least_step)],
        "y_marks": [(down(mark), f"{mark:.6g}") for mark in _marks(*y_range)],
        "diagonal": unit_square,
        "lines": {name: [(across(x), down(y), round(r, 1)) for x, y, r in line] for name, line in lines.items()},
    }


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Leave some room below and above the values."""
    room = 0.04 * (max(values) - min(values)) or 0.5
    return min(values) - room, max(values) + room


def _marks(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """Choose up to eight round numbers from low to high."""
    steps = (digit * 10.0**power for power in range(-9, 10) for digit in (1, 2, 5))
    step = next(step for step in steps if step >= least_step and high - low <= 7 * step)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
