"""The metrics gate: compare the metrics of two runs by rules such as those of params.yaml.

Notable:
- a metric is named by its keys in the file of scores; the first rule whose pattern matches them decides
- a question is its text and its label; metrics are compared on the questions that both sides have
- a drop within bounds is no regression, nor is one that chance explains
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from tabulate import tabulate

from qc.config.settings import GateRule
from qc.errors import QcError, printable
from qc.evaluation.metrics import macro_scores, mcnemar_p
from qc.files import parse_json

HEADER = ["metric", "base", "new", "change", "verdict"]
ALIGNMENT = ["left", "right", "right", "right", "left"]
REMEDY = "run `dvc repro` to recreate it"
ROUNDING = 1e-6  # metrics are written with six digits
DIGITS = 9  # of a change; beyond them it is what binary fractions add to decimal ones

# Exit status by the beginning of a verdict: 1 regression, 2 cannot compare, None not compared; any other holds, 0.
STATUSES = {"REGRESSION": 1, "cannot compare": 2, "not compared": None}

Keys = tuple[str, ...]  # of a number in a file of scores, such as ("prefix", "f1", "NUM")
Question = tuple[str, str, int]  # text, label, and how many equal ones stand before it


@dataclass(frozen=True)
class Finding:
    """A compared metric; a value is None where the metric is missing."""

    metric: Keys
    base: float | None
    new: float | None
    verdict: str
    test: tuple[int, int, float] | None = None  # lost, won, and p of the exact McNemar test, where a rule asks for it

    @property
    def status(self) -> int | None:
        """Exit status that the verdict asks for."""
        return STATUSES.get(self.verdict.partition(":")[0], 0)


@dataclass(frozen=True)
class MetricSet:
    """One side of a comparison."""

    metrics: dict[Keys, float]  # NaN for a value that is no number
    predictions: dict[Question, dict[str, str]]  # rows of the file

    def predicted(self, metric: Keys, questions: Iterable[Question]) -> np.ndarray | None:
        """Classes (N,) that the model of a metric `..., MODEL, SCORE` predicts; None where they are unknown."""
        rows = [self.predictions[question] for question in questions]
        known = len(metric) > 1 and rows and metric[-2] in rows[0]
        return np.array([row[metric[-2]] for row in rows]) if known else None


def read_metrics(scores: str, predictions: str, names: Sequence[str], side: str) -> MetricSet:
    """Parse the texts of the files of scores and of predictions; `names` and `side` are theirs in messages.

    Raises:
        QcError: A file is malformed, or the predictions do not give the accuracies among the scores.
    """
    try:
        metrics = dict(_numbers(parse_json(scores), ()))
    except (ValueError, OverflowError, RecursionError) as error:
        raise QcError(f"{names[0]}: not valid JSON: {error}; {REMEDY}") from None
    metric_set = MetricSet(metrics, _read_predictions(predictions, names[1]))
    labels = _labels(metric_set.predictions)
    for metric, score in metrics.items():
        predicted = metric_set.predicted(metric, metric_set.predictions)
        if metric[-1] == "accuracy" and predicted is not None:
            accuracy = float(np.mean(predicted == labels))
            if abs(accuracy - score) > ROUNDING:
                raise QcError(
                    f"the scores {side} have {_shown(metric)} {score:g}, but by the predictions beside them it is "
                    f"{accuracy:g}: they belong to different runs; run `dvc repro` to recreate both"
                )
    return metric_set


def _numbers(content: Mapping[str, Any], above: Keys) -> Iterator[tuple[Keys, float]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, (*above, key))
        else:
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            yield (*above, key), float(value) if number else math.nan


def _read_predictions(text: str, name: str) -> dict[Question, dict[str, str]]:
    reader, rows, seen = csv.DictReader(io.StringIO(text, newline=""), strict=True), {}, Counter()
    try:
        if missing := {"text", "label"} - set(reader.fieldnames or []):
            raise QcError(f"{name}:1: no column {', '.join(sorted(missing))}; {REMEDY}")
        for row in reader:
            if None in row or None in row.values():
                raise QcError(f"{name}:{reader.line_num}: not as many values as columns; {REMEDY}")
            question = row["text"], row["label"]
            rows[(*question, seen[question])] = row
            seen[question] += 1
    except csv.Error as error:
        raise QcError(f"{name}:{reader.line_num}: not CSV: {error}; {REMEDY}") from None
    return rows


def _labels(questions: Iterable[Question]) -> np.ndarray:
    return np.array([label for _, label, _ in questions])


def matches(metric: Keys, pattern: str) -> bool:
    """Whether a pattern matches key by key: it is split at dots, keys are not; `*` and `?` match a dot in a key."""
    patterns = pattern.split(".")
    return len(metric) == len(patterns) and all(map(fnmatchcase, metric, patterns))


def compare(rules: Sequence[GateRule], base: MetricSet, new: MetricSet) -> tuple[list[Finding], list[str]]:
    """Compare every metric that a rule matches, in the order of the new metrics.

    Returns the findings, and sentences that tell a reader which questions were compared, and what chance can explain.
    """
    common = [question for question in base.predictions if question in new.predictions]
    removed, added = (len(side.predictions) - len(common) for side in (base, new))
    computed = None  # the scores to compute on the common questions; None: those of the files hold
    note = f"{len(common)} questions, the same on both sides."
    if removed or added:
        few = 2 * len(common) < len(base.predictions)
        computed = () if few else ("accuracy", "macro_f1")  # all that predicted classes give
        done = "nothing is compared" if few else "accuracy and macro F1 are computed on these, nothing else is compared"
        note = (
            f"{len(common)} questions are on both sides, with the same text and label; {removed} of the base are not "
            f"here, {added} are new: {done}."
        )
    findings = []
    for metric in dict.fromkeys((*new.metrics, *base.metrics)):
        if rule := next((rule for rule in rules if matches(metric, rule.metric)), None):
            findings.append(_compare(metric, rule, base, new, common, computed))
    notes = [note]
    if any(finding.test for finding in findings):
        limits = sorted({rule.p_value for rule in rules if rule.p_value is not None})
        least = ", ".join(f"below {limit:.3g} takes at least {_needed(limit)} such questions" for limit in limits)
        notes.append(
            "Lost are the questions that only the base answers correctly, won those that only this version does. p is "
            "how often luck alone makes lost and won at least so uneven: if both were equally good, each of these "
            f"questions would be a toss of a coin (exact McNemar test). A p {least}: with fewer, even a large drop "
            "passes."
        )
    return findings, notes


def _compare(
    metric: Keys,
    rule: GateRule,
    base: MetricSet,
    new: MetricSet,
    common: Sequence[Question],
    computed: Sequence[str] | None,
) -> Finding:
    before, after = base.metrics.get(metric), new.metrics.get(metric)
    if after is None or math.isnan(after):
        return Finding(metric, before, after, f"REGRESSION: {'vanished' if after is None else 'not a number'}")
    if before is None or math.isnan(before):
        verdict = "not compared: not in the base" if before is None else "cannot compare: base is not a number"
        return Finding(metric, before, after, verdict)

    labels, answers = _labels(common), [side.predicted(metric, common) for side in (base, new)]
    known = all(predicted is not None for predicted in answers)
    if computed is not None:
        if metric[-1] not in computed or not known:
            return Finding(metric, before, after, "not compared: other questions")
        before, after = (
            float(np.mean(predicted == labels)) if metric[-1] == "accuracy" else macro_scores(predicted, labels)[2]
            for predicted in answers
        )
    test = None
    if rule.p_value is not None and known:
        correct, now = (predicted == labels for predicted in answers)
        test = int(np.sum(correct & ~now)), int(np.sum(now & ~correct)), mcnemar_p(correct, now)

    worse = round(before - after if rule.better == "higher" else after - before, DIGITS)
    bounds = [] if rule.absolute is None else [rule.absolute]
    if rule.relative is not None:
        bounds.append(rule.relative * abs(before))
    if worse <= 0:
        verdict = "better" if worse < 0 else "same"
    elif worse <= round(min(bounds, default=0.0), DIGITS):
        verdict = "holds: worse, within bounds"
    elif test is None or test[2] < rule.p_value:
        verdict = "REGRESSION"
    elif test[0] + test[1] < _needed(rule.p_value):
        verdict = "holds: worse, too few questions differ to tell it from chance"
    else:
        verdict = "holds: worse, may be chance"
    return Finding(metric, before, after, verdict, test)


def _needed(p_value: float) -> int:
    """Least number of lost and won questions with which an exact McNemar test can find a p below `p_value`."""
    return math.floor(math.log2(2 / p_value)) + 1


def exit_status(findings: Sequence[Finding]) -> int:
    """1 where anything is a regression; else 2 where something cannot be compared, or nothing was; else 0."""
    statuses = {finding.status for finding in findings} - {None}
    return 1 if 1 in statuses else max(statuses, default=2)


def summary(findings: Sequence[Finding]) -> str:
    """Say in one sentence which metrics are worse than the rules allow."""
    worse = [f"`{_shown(finding.metric)}`" for finding in findings if finding.status == 1]
    compared = sum(finding.status is not None for finding in findings)
    return f"Of {compared} compared metrics, worse than the rules allow: {', '.join(worse) or 'none'}."


def limits(rules: Iterable[GateRule]) -> str:
    """Say in one sentence how much worse the rules let metrics get."""
    parts = []
    for rule in rules:
        bounds = [] if rule.absolute is None else [f"{rule.absolute:g}"]
        bounds += [] if rule.relative is None else [f"{100 * rule.relative:g} % of the base"]
        chance = "" if rule.p_value is None else f", or by more where p is {rule.p_value:g} or above"
        parts.append(f"`{rule.metric}` by {' and at most '.join(bounds) or 'nothing'}{chance}")
    return f"Allowed to be worse: {'; '.join(parts)}."


def table(findings: Sequence[Finding], markdown: bool) -> str:
    """Lay out the findings as aligned text, or as a Markdown table with what does not hold in bold."""
    rows = []
    for finding in findings:
        base, new, verdict = finding.base, finding.new, finding.verdict
        change = "" if base is None or new is None or math.isnan(new - base) else f"{new - base:+.4f}"
        if finding.test:
            lost, won, p_value = finding.test
            verdict += f" ({lost} lost, {won} won, p = {p_value:.3g})"
        metric = _shown(finding.metric)
        if markdown:
            metric = f"`{metric}`".replace("|", r"\|")
            verdict = f"**{verdict}**" if finding.status else verdict
        numbers = ["missing" if number is None else f"{number:.4f}" for number in (base, new)]
        rows.append([metric, *numbers, change, verdict])
    layout = "github" if markdown else "plain"
    return tabulate(rows, HEADER, tablefmt=layout, disable_numparse=True, colalign=ALIGNMENT)


def _shown(metric: Keys) -> str:
    return printable(".".join(metric)).replace("`", "'")
