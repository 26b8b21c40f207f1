"""Did a change make the metrics worse? Two sides of numbers, held against each other by rules.

Notable:
- a metric is the dotted name of a number in a file of scores; the first rule whose pattern fits it decides
- a drop within bounds is none, and where both sides' predictions are at hand neither is one that chance explains
- numbers of different questions are never compared
"""

import csv
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from qc.errors import QcError
from qc.metrics import mcnemar_p
from qc.settings import Rule

VERDICTS = {0: "holds", 1: "regression", 2: "cannot compare"}  # by exit status
SIZES = ("n_valid", "n_test")  # metrics that say how many questions were scored
HEADER = ["metric", "base", "new", "change", "verdict"]
ROUNDING = 1e-6  # metrics are written with six digits
DIGITS = 9  # of a change; beyond them it is what binary fractions add to decimal ones


class Outcome(Enum):
    """What became of a metric, in words."""

    BETTER = "better"
    SAME = "same"
    WITHIN = "holds: worse, within bounds"
    CHANCE = "holds: worse, may be chance"
    NEW = "new: not in the base"
    WORSE = "REGRESSION"
    VANISHED = "REGRESSION: vanished"
    NOT_A_NUMBER = "REGRESSION: not a number"
    BASE_NOT_A_NUMBER = "cannot compare: base is not a number"
    OTHER_QUESTIONS = "cannot compare: other questions"

    @property
    def status(self) -> int:
        """The exit status it asks for: 0 holds, 1 regression, 2 cannot compare."""
        return 1 if self.value.startswith("REGRESSION") else 2 if self.value.startswith("cannot") else 0


@dataclass(frozen=True)
class Finding:
    """A metric on both sides, None where it is missing, and what became of it.

    `p_value` is that of the exact McNemar test where a rule asked for it.
    """

    metric: str
    base: float | None
    new: float | None
    outcome: Outcome
    p_value: float | None = None


@dataclass(frozen=True)
class Side:
    """What one side of a comparison holds.

    Attributes:
        metrics: Numbers by dotted name; NaN for what should be a number and is not.
        predictions: Rows of the predictions that were scored, by id; None where there is no such file.
    """

    metrics: dict[str, float]
    predictions: dict[str, dict[str, str]] | None

    @property
    def size(self) -> float | None:
        """How many questions were scored; None where that is not known."""
        return next((self.metrics[name] for name in SIZES if name in self.metrics), None)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings by dotted name; what is no number becomes NaN."""
    found = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            found[f"{prefix}{key}"] = float(value) if number else math.nan
    return found


def read_predictions(text: str, name: str) -> dict[str, dict[str, str]]:
    """Rows of predictions as CSV, by id.

    Args:
        text: The content of the file.
        name: What messages call it.

    Raises:
        QcError: It has no columns id, text and label, a row is not whole, or an id stands there twice.
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
                raise QcError(f"{name}:{reader.line_num}: id {row['id']} stands here twice; `dvc repro` makes it anew")
            rows[row["id"]] = row
    except csv.Error as error:
        raise QcError(f"{name}:{reader.line_num}: not CSV: {error}; `dvc repro` makes it anew") from None
    return rows


def other_questions(base: Side, new: Side) -> str | None:
    """How the questions of two sides differ, in words; None where they do not."""
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


def judge(rules: Sequence[Rule], base: Side, new: Side) -> list[Finding]:
    """Hold every metric that a rule names against its base, in the order of the new side.

    Raises:
        QcError: A rule names no metric of either side.
    """
    names = [*new.metrics, *(name for name in base.metrics if name not in new.metrics)]
    for number, rule in enumerate(rules):
        if not any(_fits(name, rule.metric) for name in names):
            raise QcError(
                f"params.yaml: gate.rules.{number}.metric: {rule.metric!r} fits no metric of either side; "
                f"there are {', '.join(names[:4])}, ..."
            )
    comparable = other_questions(base, new) is None
    return list(_findings(names, rules, base, new, comparable))


def _findings(
    names: Sequence[str], rules: Sequence[Rule], base: Side, new: Side, comparable: bool
) -> Iterator[Finding]:
    for name in names:
        rule = next((rule for rule in rules if _fits(name, rule.metric)), None)
        if rule is None:
            continue
        before, after = base.metrics.get(name), new.metrics.get(name)
        p_value = None
        if after is None:
            outcome = Outcome.VANISHED
        elif math.isnan(after):
            outcome = Outcome.NOT_A_NUMBER
        elif before is None:
            outcome = Outcome.NEW
        elif math.isnan(before):
            outcome = Outcome.BASE_NOT_A_NUMBER
        elif not comparable:
            outcome = Outcome.OTHER_QUESTIONS
        else:
            p_value = None if rule.p_value is None else _paired(name, base, new)
            outcome = _outcome(rule, before, after, p_value)
        yield Finding(name, before, after, outcome, p_value)


def _fits(name: str, pattern: str) -> bool:
    """Whether a dotted name fits a pattern, part by part: `*` never reaches over a dot."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _outcome(rule: Rule, base: float, new: float, p_value: float | None) -> Outcome:
    worse = round(base - new if rule.better == "higher" else new - base, DIGITS)
    if worse <= 0:
        return Outcome.BETTER if worse < 0 else Outcome.SAME
    limits = [
        *([] if rule.absolute is None else [rule.absolute]),
        *([] if rule.relative is None else [rule.relative * abs(base)]),
    ]
    if worse <= round(min(limits, default=0.0), DIGITS):
        return Outcome.WITHIN
    if p_value is not None and p_value >= rule.p_value:
        return Outcome.CHANCE
    return Outcome.WORSE


def _paired(metric: str, base: Side, new: Side) -> float | None:
    """p-value that `....MODEL.accuracy` is the same on both sides; None where one lacks that model's predictions.

    Raises:
        QcError: A side's predictions are not those that its accuracy was computed from.
    """
    model = metric.split(".")[-2]
    if not base.predictions or not new.predictions:
        return None
    right = []
    for side, name in ((base, "at the base"), (new, "here")):
        rows = [side.predictions[key] for key in sorted(base.predictions)]
        if any(model not in row for row in rows):
            return None
        right.append(np.array([row[model] == row["label"] for row in rows], dtype=bool))
        share = float(right[-1].mean())
        if abs(share - side.metrics[metric]) > ROUNDING:
            raise QcError(
                f"the scores {name} have {metric} {side.metrics[metric]:g}, but in the predictions beside them {model} "
                f"is right on {share:g}: they are not of one run; `dvc repro` makes both"
            )
    return mcnemar_p(*right)


def status(findings: Sequence[Finding]) -> int:
    """0 where all holds; 1 where anything is a regression; else 2: something cannot be compared."""
    found = {finding.outcome.status for finding in findings}
    return 1 if 1 in found else max(found, default=2)


def cells(finding: Finding) -> list[str]:
    """A finding in words: metric, base, new, change, verdict."""
    base, new = finding.base, finding.new
    change = "" if base is None or new is None or math.isnan(new - base) else f"{new - base:+.4f}"
    chance = "" if finding.p_value is None else f" (p = {finding.p_value:.3g})"
    shown = ["missing" if number is None else f"{number:.4f}" for number in (base, new)]
    return [finding.metric, *shown, change, f"{finding.outcome.value}{chance}"]


def terminal_table(findings: Sequence[Finding]) -> str:
    """The findings as aligned text."""
    rows = [HEADER, *map(cells, findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < place < 4 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown_table(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown table; what is not fine is bold."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|--:|--:|--:|---|"]
    for finding in findings:
        metric, *numbers, verdict = (cell.replace("|", "\\|") for cell in cells(finding))
        verdict = f"**{verdict}**" if finding.outcome.status else verdict
        lines.append(f"| `{metric}` | {' | '.join(numbers)} | {verdict} |")
    return "\n".join(lines)
