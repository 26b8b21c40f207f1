"""metrics -> the result tables of README.md, between two marks; run by `make readme`, not a stage of the DAG."""

import csv
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from qc.artifacts import read_json
from qc.errors import QcError
from qc.settings import Settings
from stages.entry import METRICS, run

README = Path("README.md")
SEEDS = METRICS / "seeds.json"
BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
MODELS = {"scratch": "transformer from scratch", "prefix": "prefix tuning", "distilbert": "fine-tuned encoder"}
BASELINES = {"tfidf_svm": "TF-IDF + LinearSVC", "majority": "majority class"}


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of ours, by column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise QcError(f"{path}: cannot be read: {error}; `dvc repro` makes it anew") from None


def standard_error(share: float, questions: int) -> float:
    """The standard error of a share of so many questions, which more seeds do not make smaller."""
    return (share * (1 - share) / questions) ** 0.5


def result_table(scores: dict[str, Any], trainings: dict[str, dict[str, Any]]) -> str:
    """The models and baselines as a Markdown table, from metrics/evaluate.json and metrics/train_NAME.json."""
    lines = [
        f"| | trained parameters | validation accuracy | test accuracy (95 % interval), {scores['n_test']} questions "
        "| macro F1 | ECE |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in MODELS.items():
        own, training = scores[name], trainings[name]
        lines.append(
            f"| {title} | {training['parameters']['trainable']:,} | {training['valid']['accuracy']:.3f} "
            f"| {accuracy_cell(own)} "
            f"| {own['macro_f1']:.3f} | {own['ece']:.3f} |"
        )
    for name, title in BASELINES.items():
        lines.append(f"| {title} | | | {accuracy_cell(scores['baselines'][name])} | | |")
    lines += ["", against_tfidf(scores)]
    return "\n".join(lines)


def against_tfidf(scores: dict[str, Any]) -> str:
    """What the tests of each model against the TF-IDF baseline say, in a sentence."""
    baseline = scores["baselines"]["tfidf_svm"]["accuracy"]
    found = []
    for name, title in MODELS.items():
        accuracy = scores[name]["accuracy"]
        side = "above" if accuracy > baseline else "below" if accuracy < baseline else "level with"
        found.append(f"{title} {side} it (p = {scores['comparisons'][f'{name}_vs_tfidf_svm']['mcnemar_p']:.2g})")
    return f"Beside TF-IDF, by an exact McNemar test: {', '.join(found)}."


def accuracy_cell(found: dict[str, Any]) -> str:
    """An accuracy with the bounds of its interval."""
    return f"**{found['accuracy']:.3f}** ({found['accuracy_low']:.3f} to {found['accuracy_high']:.3f})"


def seed_values(seeds: dict[str, Any], model: str, score: str) -> list[float]:
    """A score of a model, a number a seed; `seeds` is metrics/seeds.json."""
    return [found[model][score] for found in seeds.values()]


def seed_table(seeds: dict[str, Any]) -> str:
    """Mean, standard deviation and range of accuracies over the seeds, as Markdown."""
    lines = [
        f"| over seeds {', '.join(seeds)} | validation accuracy | test accuracy | standard deviation | range |",
        "|---|---|---|---|---|",
    ]
    for model, title in MODELS.items():
        found = seed_values(seeds, model, "accuracy")
        lines.append(
            f"| {title} | {mean(seed_values(seeds, model, 'valid_accuracy')):.3f} | **{mean(found):.3f}** "
            f"| {stdev(found):.3f} | {min(found):.3f} to {max(found):.3f} |"
        )
    return "\n".join(lines)


def write_block(path: Path, begin: str, end: str, block: str) -> None:
    """Put `block` between two marks of a file; QcError where they are missing."""
    path.write_text(with_block(path.read_text(encoding="utf-8"), begin, end, block), encoding="utf-8")
    print(f"{path}: written")


def with_block(text: str, begin: str, end: str, block: str) -> str:
    """`text` with `block` between two marks; QcError where they are missing."""
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise QcError(f"the marks {begin} and {end} are missing; git shows where they stood")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def main(_: Settings) -> None:
    """Write the tables of the last run, and of the last run over seeds, into README.md."""
    if not SEEDS.exists():
        raise QcError(f"{SEEDS}: not there; `make seeds` makes it")
    trainings = {name: read_json(METRICS / f"train_{name}.json") for name in MODELS}
    tables = [result_table(read_json(METRICS / "evaluate.json"), trainings), seed_table(read_json(SEEDS))]
    write_block(README, BEGIN, END, "\n\n".join(tables))


if __name__ == "__main__":
    run(main)
