"""Where things are, seen from the top of the repository."""

from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
LOCK = Path("dvc.lock")
README = Path("README.md")
EVALUATION_PAGE = Path("docs/evaluation.md")
PORTABLE_RECORD = Path("docs/portable.sha256")

SOURCES = Path("data/sources.yaml")
OWN_DATA = Path("data/own")
RAW = Path("data/raw")
FILES = RAW / "files.json"
ENCODERS = Path("data/encoders")
TOKENIZED = Path("data/tokenized")
SPLIT = Path("data/split")

MODELS = Path("models")
METRICS = Path("metrics")  # the few numbers that `dvc metrics show` has
REPORTS = Path("reports")  # all other figures
PLOTS = Path("plots")
CARDS = REPORTS / "cards"
SEEDS = REPORTS / "seeds.json"
SUSPECTS, SUSPECTS_SUMMARY = REPORTS / "labels.csv", REPORTS / "labels.json"  # labels that look wrong
PAGE = Path("report/index.html")
EXPORT = Path("export")

CHECKPOINTS = Path(".state")
LIVE = Path("dvclive")


@dataclass(frozen=True)
class Folders:
    """The folders of a training run."""

    split: Path = SPLIT
    encoders: Path = ENCODERS
    models: Path = MODELS
    metrics: Path = METRICS
    reports: Path = REPORTS
    plots: Path = PLOTS
    checkpoints: Path = CHECKPOINTS
    live: Path = LIVE
