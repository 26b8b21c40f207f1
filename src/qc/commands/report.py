"""Write the last run as one HTML page, report/index.html: results, figures, the audit and the mistakes.

The page has no script and loads nothing. Run `dvc repro` first.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import Any

from qc.commands.report_page import RunResults, render_page
from qc.evaluation.tables import seed_values
from qc.files import new_file, read_csv, read_json
from qc.models.registry import MODELS
from qc.paths import METRICS, PAGE, PARAMS, PLOTS, REPORTS, SEEDS, SUSPECTS, SUSPECTS_SUMMARY
from qc.stage import load_settings

MOST_SUSPICIOUS = 20  # labels that the page lists


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Write the page; the exit status."""
    scores, data = read_json(REPORTS / "test.json"), read_json(REPORTS / "data.json")
    page = render_page(
        RunResults(
            scores=scores,
            data=data,
            trainings={name: read_json(REPORTS / f"train_{name}.json") for name in MODELS},
            curves={name: read_csv(PLOTS / f"train_{name}.csv") for name in MODELS},
            predictions=read_csv(METRICS / "predictions.csv"),
            mistakes=read_csv(PLOTS / "mistakes.csv"),
            reliability=read_csv(PLOTS / "reliability.csv"),
            coverage=read_csv(PLOTS / "coverage.csv"),
            seeds=read_seeds(load_settings().seed, scores),
            labels=read_labels(data),
            params=PARAMS.read_text(encoding="utf-8"),
        )
    )
    with new_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{PAGE}: {len(page.encode()) / 1024:.0f} KiB")
    return 0


def read_seeds(seed: int, scores: Mapping[str, Any]) -> dict[str, list[float]]:
    """Read the test accuracies over training seeds; empty where they belong to another run than these scores."""
    seeds = read_json(SEEDS) if SEEDS.exists() else {}
    same = seeds.get(str(seed))
    if same is None or any(name not in same or same[name]["loss"] != scores[name]["loss"] for name in MODELS):
        return {}
    return {name: seed_values(seeds, name, "accuracy") for name in MODELS}


def read_labels(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read what `qc labels` found; None where it was run on other splits than those of reports/data.json, or never."""
    if not SUSPECTS_SUMMARY.exists():
        return None
    found = read_json(SUSPECTS_SUMMARY)
    if found["split"] != {name: data["sha256"][name] for name in found["split"]}:
        return None
    return {**found, "most_suspicious": read_csv(SUSPECTS)[:MOST_SUSPICIOUS]}
