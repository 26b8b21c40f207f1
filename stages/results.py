"""metrics -> the result table of README.md, between its two marks; run by `make readme`, not a stage of the DAG."""

from pathlib import Path
from typing import Any

from qc.artifacts import read_json
from qc.errors import QcError
from qc.settings import Settings
from stages.entry import METRICS, run

README = Path("README.md")
BEGIN, END = "<!-- results: written by `make readme` -->", "<!-- end of results -->"
MODELS = {"scratch": "transformer from scratch", "prefix": "prefix tuning", "distilbert": "fine-tuned encoder"}
BASELINES = {"tfidf_svm": "TF-IDF + LinearSVC", "majority": "majority class"}


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
            f"| **{own['accuracy']:.3f}** ({own['accuracy_low']:.3f} to {own['accuracy_high']:.3f}) "
            f"| {own['macro_f1']:.3f} | {own['ece']:.3f} |"
        )
    for name, title in BASELINES.items():
        lines.append(f"| {title} | | | {scores['baselines'][name]['accuracy']:.3f} | | |")
    return "\n".join(lines)


def with_block(readme: str, begin: str, end: str, block: str) -> str:
    """`readme` with `block` between two marks; QcError where they are missing."""
    before, found_begin, rest = readme.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise QcError(f"{README}: the marks {begin} and {end} are missing; git shows where they stood")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def main(_: Settings) -> None:
    """Write the table of the last run into README.md."""
    trainings = {name: read_json(METRICS / f"train_{name}.json") for name in MODELS}
    table = result_table(read_json(METRICS / "evaluate.json"), trainings)
    README.write_text(with_block(README.read_text(encoding="utf-8"), BEGIN, END, table), encoding="utf-8")
    print(f"{README}: result table written")


if __name__ == "__main__":
    run(main)
