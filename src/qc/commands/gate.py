"""The metrics gate: compare the metrics with those of a revision, by the rules of params.yaml.

Notable:
- a metric is the dotted name of a number in a file of scores; the first rule whose pattern matches it decides
- a drop within bounds is no regression, nor is one that chance explains, where both sides have their predictions
- scores on different questions are never compared
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

import numpy as np
from tabulate import tabulate

from qc.commands.metric_set import MetricSet, question_difference
from qc.config.settings import GateRule
from qc.errors import QcError
from qc.evaluation.metrics import mcnemar_p

VERDICTS = {0: "holds", 1: "regression", 2: "cannot compare"}  # by exit status
HEADER = ["metric", "base", "new", "change", "verdict"]
ALIGNMENT = ["left", "right", "right", "right", "left"]
ROUNDING = 1e-6  # metrics are written with six digits
DIGITS = 9  # of a change; beyond them it is what binary fractions add to decimal ones


class Outcome(Enum):
    """Outcome of the comparison of a metric."""

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
        """Exit status: 0 holds, 1 regression, 2 cannot compare."""
        return 1 if self.value.startswith("REGRESSION") else 2 if self.value.startswith("cannot") else 0


@dataclass(frozen=True)
class Finding:
    """A compared metric.

    Attributes:
        metric: Its dotted name.
        base: Its value at the base; None where it is missing.
        new: Its value here; None where it is missing.
        outcome: Outcome of the comparison.
        p_value: Of the exact McNemar test, where a rule demands one.
    """

    metric: str
    base: float | None
    new: float | None
    outcome: Outcome
    p_value: float | None = None


def apply_rules(rules: Sequence[GateRule], base: MetricSet, new: MetricSet) -> list[Finding]:
    """Compare every metric that a rule matches with its base, in the order of the new metrics.

    Raises:
        QcError: A rule matches no metric of either side.
    """
    names = [*new.metrics, *(name for name in base.metrics if name not in new.metrics)]
    for number, rule in enumerate(rules):
        if not any(_matches(name, rule.metric) for name in names):
            raise QcError(
                f"params.yaml: gate.rules.{number}.metric: {rule.metric!r} matches no metric of either side; "
                f"expected one such as {', '.join(names[:4])}, ..."
            )
    comparable = question_difference(base, new) is None
    return list(_findings(names, rules, base, new, comparable))


def _findings(
    names: Sequence[str], rules: Sequence[GateRule], base: MetricSet, new: MetricSet, comparable: bool
) -> Iterator[Finding]:
    for name in names:
        rule = next((rule for rule in rules if _matches(name, rule.metric)), None)
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


def _matches(name: str, pattern: str) -> bool:
    """Whether a dotted name matches a pattern, part by part: `*` does not match a dot."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _outcome(rule: GateRule, base: float, new: float, p_value: float | None) -> Outcome:
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


def _paired(metric: str, base: MetricSet, new: MetricSet) -> float | None:
    """Test whether `....MODEL.accuracy` changed: the p-value; None where a side has no predictions of the model.

    Raises:
        QcError: The predictions of a side do not give its accuracy.
    """
    model = metric.split(".")[-2]
    if not base.predictions or not new.predictions:
        return None
    correct = []
    for side, name in ((base, "at the base"), (new, "here")):
        rows = [side.predictions[key] for key in sorted(base.predictions)]
        if any(model not in row for row in rows):
            return None
        correct.append(np.array([row[model] == row["label"] for row in rows], dtype=bool))
        share = float(correct[-1].mean())
        if abs(share - side.metrics[metric]) > ROUNDING:
            raise QcError(
                f"the scores {name} have {metric} {side.metrics[metric]:g}, but by the predictions beside them {model} "
                f"has {share:g}: they belong to different runs; `dvc repro` makes both"
            )
    return mcnemar_p(*correct)


def exit_status(findings: Sequence[Finding]) -> int:
    """0 where all holds; 1 where anything is a regression; else 2: something cannot be compared."""
    found = {finding.outcome.status for finding in findings}
    return 1 if 1 in found else max(found, default=2)


def terminal_table(findings: Sequence[Finding]) -> str:
    """Lay out the findings as aligned text."""
    rows = [_cells(finding) for finding in findings]
    return tabulate(rows, HEADER, tablefmt="plain", disable_numparse=True, colalign=ALIGNMENT)


def markdown_table(findings: Sequence[Finding]) -> str:
    """Lay out the findings as a Markdown table; regressions and errors are bold."""
    rows = []
    for finding in findings:
        metric, *numbers, verdict = (cell.replace("|", "\\|") for cell in _cells(finding))
        rows.append([f"`{metric}`", *numbers, f"**{verdict}**" if finding.outcome.status else verdict])
    return tabulate(rows, HEADER, tablefmt="github", disable_numparse=True, colalign=ALIGNMENT)


def _cells(finding: Finding) -> list[str]:
    base, new = finding.base, finding.new
    change = "" if base is None or new is None or math.isnan(new - base) else f"{new - base:+.4f}"
    chance = "" if finding.p_value is None else f" (p = {finding.p_value:.3g})"
    shown = ["missing" if number is None else f"{number:.4f}" for number in (base, new)]
    return [finding.metric, *shown, change, f"{finding.outcome.value}{chance}"]
