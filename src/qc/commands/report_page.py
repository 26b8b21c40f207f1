"""The report page: tables, figures, the audit and the mistakes of a run, in one HTML file without scripts.

Notable:
- the template engine escapes everything that comes from data; the page's policy forbids scripts and requests
- the template is page.html beside this file; the figures come from `qc.commands.report_figures`
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, StrictUndefined

from qc.commands.report_figures import (
    class_bars,
    confusion_matrix,
    coverage_curves,
    learning_curves,
    reliability_diagram,
)
from qc.evaluation.tables import title
from qc.files import unescape_formula

TEMPLATE = Path(__file__).with_name("report_page.html")
MOST_DRAWN = 30  # classes of a figure
COVERAGES = (0.5, 0.8, 0.9, 0.95, 1)  # of the table
PACKAGES = ("torch", "transformers", "datasets", "scikit-learn", "numpy", "scipy", "dvc")
Json = dict[str, Any]


@dataclass(frozen=True)
class RunResults:
    """The results of a run.

    Attributes:
        scores: reports/test.json.
        data: reports/data.json.
        trainings: reports/train_NAME.json by model; their order is the report's.
        curves: Rows of plots/train_NAME.csv by model.
        predictions: Rows of metrics/predictions.csv.
        mistakes: Rows of plots/mistakes.csv.
        reliability: Rows of plots/reliability.csv.
        coverage: Rows of plots/coverage.csv.
        seeds: Test accuracies of each model over training seeds; empty for none.
        labels: reports/labels.json, and the first rows of reports/labels.csv as `most_suspicious`; None for none.
        params: The text of params.yaml.
    """

    scores: Json
    data: Json
    trainings: Mapping[str, Json]
    curves: Mapping[str, Sequence[Mapping[str, str]]]
    predictions: Sequence[Mapping[str, str]]
    mistakes: Sequence[Mapping[str, str]]
    reliability: Sequence[Mapping[str, str]]
    coverage: Sequence[Mapping[str, str]]
    seeds: Mapping[str, Sequence[float]]
    labels: Json | None
    params: str


def render_page(run: RunResults) -> str:
    """Render the page as HTML."""
    names = list(run.trainings)
    predictions = {row["id"]: row for row in run.predictions}
    classes = list(run.scores[names[0]]["f1"])
    drawn = _drawn(classes, run.data["classes"]["test"])
    curves = {name: [_numbers(row) for row in rows] for name, rows in run.curves.items()}
    bins, coverage = (
        {name: [_numbers(row, "model") for row in rows if row["model"] == name] for name in names}
        for rows in (run.reliability, run.coverage)
    )
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(
        scores=run.scores,
        data=run.data,
        precisions=" and ".join(sorted({training["precision"] for training in run.trainings.values()})),
        results=[*(_result(run, name) for name in names), *(_baseline(run, name) for name in run.scores["baselines"])],
        seeds=[
            [name, *(f"{value:.3f}" for value in (mean(found), stdev(found), min(found), max(found)))]
            for name, found in run.seeds.items()
        ],
        seed_count=max(map(len, run.seeds.values()), default=0),
        comparisons=[_comparison(pair, found) for pair, found in run.scores["comparisons"].items()],
        learning=[
            learning_curves(curves, "valid_accuracy", "validation accuracy"),
            learning_curves(curves, "valid_loss", "validation loss"),
            learning_curves(curves, "train_loss", "training loss"),
        ],
        confusions={name: confusion_matrix(_counts(run, name, drawn), drawn, name) for name in names},
        bars=class_bars({name: {each: run.scores[name]["f1"][each] for each in drawn} for name in names}, "F1"),
        drawn=drawn,
        by_class=[
            [name, each, run.data["classes"]["test"].get(each, 0)]
            + [f"{run.scores[name][score][each]:.3f}" for score in ("precision", "recall", "f1")]
            for name in names
            for each in classes
        ],
        reliability=reliability_diagram(bins),
        coverage=coverage_curves(coverage),
        thresholds=[[name, *_thresholds(rows)] for name, rows in coverage.items()],
        coverages=[f"{share:.0%}" for share in COVERAGES],
        calibration=[_calibration(name, run.scores[name]) for name in names],
        mistakes={name: [_mistake(row, predictions) for row in run.mistakes if row["model"] == name] for name in names},
        audit=[[name.replace("_", " "), f"{share:.3f}"] for name, share in run.data["leak_audit"].items()],
        classes=[
            [each, *(run.data["classes"][split].get(each, 0) for split in ("train", "valid", "test"))]
            for each in classes
        ],
        labels=run.labels,
        suspected=[list(each.values()) for each in run.labels["confusions"][:MOST_DRAWN]] if run.labels else [],
        unescape=unescape_formula,
        lengths=[[split, *found.values()] for split, found in run.data["length"].items()],
        percentiles=list(run.data["length"]["train"]),
        listed=_listed,
        params=run.params,
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    )


def _result(run: RunResults, name: str) -> list[str]:
    scores, training = run.scores[name], run.trainings[name]
    return [
        f"{name}: {title(name)}",
        f"{training['parameters']['trainable']:,}",
        f"{training['valid']['accuracy']:.3f}",
        *_accuracy(scores),
        *(f"{scores[key]:.3f}" for key in ("macro_f1", "loss", "ece", "brier")),
    ]


def _baseline(run: RunResults, name: str) -> list[str]:
    return [title(name), "", "", *_accuracy(run.scores["baselines"][name]), "", "", "", ""]


def _accuracy(found: Mapping[str, float]) -> list[str]:
    return [f"{found['accuracy']:.3f}", f"{found['accuracy_low']:.3f} to {found['accuracy_high']:.3f}"]


def _comparison(pair: str, found: Mapping[str, float]) -> list[Any]:
    first, second = pair.split("_vs_")
    return [f"{first} and {second}", found[f"{first}_alone"], found[f"{second}_alone"], f"{found['mcnemar_p']:.3g}"]


def _mistake(row: Mapping[str, str], predictions: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Take text and classes of a mistake from the predictions: its own row is escaped for spreadsheets."""
    found = predictions.get(row["id"])
    if found is None:
        return dict(row)
    return {**row, "text": found["text"], "label": found["label"], "predicted": found[row["model"]]}


def _calibration(name: str, scores: Json) -> list[str]:
    after = scores["calibrated"]
    pairs = [f"{side[key]:.3f}" for key in ("loss", "ece", "brier") for side in (scores, after)]
    return [name, f"{after['temperature']:.2f}", *pairs]


def _counts(run: RunResults, name: str, classes: Sequence[str]) -> list[list[int]]:
    """Count how many questions of each class (rows) were predicted as each class (columns)."""
    pairs = Counter((row["label"], row[name]) for row in run.predictions)
    return [[pairs[label, predicted] for predicted in classes] for label in classes]


def _drawn(classes: Sequence[str], questions: Mapping[str, int]) -> list[str]:
    """Choose the classes that figures show: those with the most test questions, in the order of the classes."""
    most = sorted(classes, key=lambda name: -questions.get(name, 0))[:MOST_DRAWN]
    return [name for name in classes if name in most]


def _thresholds(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """The confidence that leaves at least a share of the questions answered, and the accuracy on these."""
    found = [next(row for row in rows if row["coverage"] >= share) for share in COVERAGES]
    return [f"{row['accuracy']:.3f} (P = {row['min_confidence']:.2f})" for row in found]


def _numbers(row: Mapping[str, str], *words: str) -> dict[str, float]:
    return {key: float(value) for key, value in row.items() if key not in words}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
