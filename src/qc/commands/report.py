"""Write the last run as one HTML page, report/index.html: results, figures, the audit and the mistakes.

The page has no script and loads nothing. Run `dvc repro` first.
"""

import csv
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from importlib import metadata
from itertools import islice
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError

from qc.commands.check import refuse_stale_scores
from qc.commands.report_figures import Point, line_chart
from qc.commands.tables import seed_values
from qc.errors import QcError, printable
from qc.evaluation.metrics import ECE_BINS
from qc.evaluation.tables import temperature_text, title
from qc.files import new_file, read_csv, read_json, truncate_text, unescape_formula
from qc.models.registry import MODELS
from qc.paths import METRICS, PAGE, PARAMS, PLOTS, REPORTS, SEEDS, SUSPECTS, SUSPECTS_SUMMARY
from qc.questions.text import case_twins
from qc.stage import load_settings

TEMPLATE = Path(__file__).with_name("report_page.html")
MOST_SUSPICIOUS = 20  # labels that the page lists
MOST_DRAWN = 30  # classes of a figure
LONGEST_DRAWN = 24  # characters of a class name in a figure
SHARES = (0.5, 0.8, 0.9, 0.95, 1.0)  # of questions to answer
LEARNING = {"valid_accuracy": "validation accuracy", "valid_loss": "validation loss", "train_loss": "training loss"}
LABEL_COLUMNS = ("text", "label", "suggested", "confidence", "agreeing")
PACKAGES = ("torch", "transformers", "datasets", "scikit-learn", "numpy", "scipy", "dvc")
Json = dict[str, Any]
Rows = Sequence[Mapping[str, str]]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Write the page; the exit status."""
    try:
        refuse_stale_scores()
        page = render_page()
    except (LookupError, TypeError, ValueError, UndefinedError) as error:
        raise QcError(
            f"{REPORTS}, {METRICS} or {PLOTS}: not of this version, or changed since: {error!r}; run `dvc repro` to "
            "recreate them"
        ) from None
    with new_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{PAGE}: {len(page.encode()) / 1024:.0f} KiB")
    return 0


def render_page() -> str:
    """Render the files of the last run as HTML; the template escapes everything that comes from data."""
    scores, data = read_json(REPORTS / "test.json"), read_json(REPORTS / "data.json")
    predictions = read_csv(METRICS / "predictions.csv")
    if len(predictions) != scores["n_test"]:
        raise QcError(
            f"{METRICS / 'predictions.csv'}: {len(predictions)} rows, but {REPORTS / 'test.json'} is of "
            f"{scores['n_test']} questions; run `dvc repro` to recreate them"
        )
    coverage, reliability, mistakes = (
        _by_model(_unescaped(read_csv(PLOTS / f"{name}.csv"))) for name in ("coverage", "reliability", "mistakes")
    )
    curves = {name: read_csv(PLOTS / f"train_{name}.csv") for name in MODELS}
    seeds = read_seeds(load_settings().seed, scores)
    classes = list(scores[next(iter(MODELS))]["f1"])
    tested = data["classes"]["test"]
    most = sorted(classes, key=lambda name: -tested.get(name, 0))[:MOST_DRAWN]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["decimals"] = "{:.3f}".format
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        scores=scores,
        data=data,
        models=list(MODELS),
        trainings={name: read_json(REPORTS / f"train_{name}.json") for name in MODELS},
        title=title,
        temperature_text=temperature_text,
        bins=ECE_BINS,
        seeds={name: seed_values(seeds, name, "accuracy") for name in MODELS} if seeds else {},
        mean=mean,
        stdev=stdev,
        learning=[
            line_chart(
                f"{label} by epoch",
                "epoch",
                label,
                {name: _points(rows, "epoch", column) for name, rows in curves.items()},
                least_step=1,
            )
            for column, label in LEARNING.items()
        ],
        classes=classes,
        drawn=[name for name in classes if name in most],
        short={
            name: name if len(name) <= LONGEST_DRAWN else f"{name[: LONGEST_DRAWN - 6]}… ({number})"
            for number, name in enumerate(classes, start=1)
        },
        counts={name: Counter((row["label"], row[name]) for row in predictions) for name in MODELS},
        reliability=line_chart(
            "reliability diagram",
            "mean confidence of a bin (larger: more questions)",
            "accuracy of the bin",
            {name: _points(rows, "confidence", "accuracy", "questions") for name, rows in reliability.items()},
            unit_square=True,
        ),
        coverage=line_chart(
            "accuracy by coverage",
            "coverage: share of the questions that are answered",
            "accuracy on these",
            {name: _points(rows, "coverage", "accuracy") for name, rows in coverage.items()},
        ),
        shares=[f"{share:.0%}" for share in SHARES],
        thresholds={name: [_threshold(rows, share) for share in SHARES] for name, rows in coverage.items()},
        mistakes=mistakes,
        twins=case_twins(classes),
        labels=read_labels(data),
        params=PARAMS.read_text(encoding="utf-8"),
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    )


def read_seeds(seed: int, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Read reports/seeds.json; empty where it is missing, or of another run than these test scores."""
    seeds = read_json(SEEDS) if SEEDS.exists() else {}
    same = seeds.get(str(seed), {})
    return seeds if all(name in same and same[name].get("loss") == scores[name]["loss"] for name in MODELS) else {}


def read_labels(data: Mapping[str, Any]) -> Json | None:
    """Read the output of `qc labels`; None where it was run on other splits than those of reports/data.json, or never.

    Raises:
        QcError: reports/labels.csv is not as `qc labels` wrote it; people edit it.
    """
    if not SUSPECTS_SUMMARY.exists():
        return None
    summary = read_json(SUSPECTS_SUMMARY)
    if summary["split"] != {name: data["sha256"].get(name) for name in summary["split"]}:
        return None
    csv.field_size_limit(sys.maxsize)  # a text of the training data may be longer than the default
    try:
        with SUSPECTS.open(encoding="utf-8", newline="") as file:
            rows = _unescaped(islice(csv.DictReader(file), MOST_SUSPICIOUS))
        for row in rows:
            row |= {"text": truncate_text(row["text"]), "confidence": f"{float(row['confidence']):.2f}"}
        suspicious = [[row[key] for key in LABEL_COLUMNS] for row in rows]
    except (OSError, csv.Error, LookupError, TypeError, ValueError) as error:
        raise QcError(
            f"{SUSPECTS}: cannot be read: {printable(repr(error))}; run `qc labels` to recreate it, or remove "
            f"{SUSPECTS_SUMMARY} for a report without it"
        ) from None
    return summary | {"most_suspicious": suspicious, "confusions": summary["confusions"][:MOST_DRAWN]}


def _unescaped(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Remove the apostrophes that keep spreadsheets from running texts."""
    return [
        {key: unescape_formula(value) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]


def _by_model(rows: Rows) -> dict[str, list[Mapping[str, str]]]:
    return {name: [row for row in rows if row["model"] == name] for name in MODELS}


def _points(rows: Rows, x: str, y: str, size: str | None = None) -> list[Point]:
    """Take the points of a line from columns of a table; the radius of a dot grows with the root of its size."""
    return [(float(row[x]), float(row[y]), 1 + float(row[size]) ** 0.5 if size else 2.0) for row in rows]


def _threshold(rows: Rows, share: float) -> str:
    """Find the largest confidence of two digits that a share of the questions reaches, and the accuracy above it."""
    reached, *_ = (row["min_confidence"] for row in rows if float(row["coverage"]) >= share)
    least = Decimal(reached).quantize(Decimal("0.01"), ROUND_DOWN)
    answered = [row for row in rows if Decimal(row["min_confidence"]) >= least]
    return f"{float(answered[-1]['accuracy']):.3f} (P = {least})"
