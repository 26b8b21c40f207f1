"""metrics, plots, params.yaml -> report/index.html, one page of the last run.

Run by `make report`, which brings the pipeline up to date first; not a stage of the DAG.
"""

from pathlib import Path
from typing import Any

from qc.artifacts import new_file, read_json
from qc.report import Run, render
from qc.settings import Settings
from stages.entry import METRICS, PARAMS, PLOTS, run
from stages.results import BASELINES, MODELS, SEEDS, read_csv, seed_values

PAGE = Path("report/index.html")


def read_seeds(seed: int, scores: dict[str, Any]) -> dict[str, list[float]]:
    """Test accuracies of each model over training seeds; none where they are of another pipeline than these scores."""
    seeds = read_json(SEEDS) if SEEDS.exists() else {}
    own = seeds.get(str(seed))
    if own is None or any(own[name]["loss"] != scores[name]["loss"] for name in MODELS):
        return {}
    return {name: seed_values(seeds, name, "accuracy") for name in MODELS}


def main(settings: Settings) -> None:
    """Write the page."""
    scores = read_json(METRICS / "evaluate.json")
    page = render(
        Run(
            scores=scores,
            data=read_json(METRICS / "data.json"),
            trainings={name: read_json(METRICS / f"train_{name}.json") for name in MODELS},
            curves={name: read_csv(PLOTS / f"train_{name}.csv") for name in MODELS},
            predictions=read_csv(METRICS / "predictions.csv"),
            mistakes=read_csv(PLOTS / "mistakes.csv"),
            reliability=read_csv(PLOTS / "reliability.csv"),
            seeds=read_seeds(settings.seed, scores),
            titles=MODELS | BASELINES,
            params=PARAMS.read_text(encoding="utf-8"),
        )
    )
    with new_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"{PAGE}: {len(page.encode()) / 1024:.0f} KiB, one file")


if __name__ == "__main__":
    run(main)
