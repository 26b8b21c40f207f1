"""Result tables, as Markdown, and the files that they are written into."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from qc.errors import QcError
from qc.evaluation.tables import BASELINES, markdown, title
from qc.files import new_file


def result_table(scores: Mapping[str, Any], trainings: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the accuracies in reports/test.json and reports/train_NAME.json."""
    count = scores["n_test"]
    header = ["", "trained parameters", "validation accuracy", f"test accuracy (95 % interval), {count} questions"]
    rows = []
    for name, training in trainings.items():
        numbers = f"{training['parameters']['trainable']:,}", f"{training['valid']['accuracy']:.3f}"
        rows.append([title(name), *numbers, _accuracy_cell(scores[name])])
    rows += [[title(name), "", "", _accuracy_cell(scores["baselines"][name])] for name in BASELINES]
    return markdown(header, rows)


def score_table(scores: Mapping[str, Any], models: Sequence[str]) -> str:
    """Format the other scores in reports/test.json, and how each model compares with the TF-IDF baseline."""
    header = ["test", "macro F1", "log loss", "ECE", "ECE, calibrated", "against TF-IDF, exact McNemar test"]
    baseline = scores["baselines"]["tfidf_svm"]["accuracy"]
    rows = []
    for name in models:
        accuracy = scores[name]["accuracy"]
        side = "above" if accuracy > baseline else "below" if accuracy < baseline else "level with it"
        p_value = scores["comparisons"][f"{name}_vs_tfidf_svm"]["mcnemar_p"]
        numbers = (*(scores[name][key] for key in ("macro_f1", "loss", "ece")), scores[name]["calibrated"]["ece"])
        rows.append([title(name), *(f"{number:.3f}" for number in numbers), f"{side}, p = {p_value:.2g}"])
    return markdown(header, rows)


def _accuracy_cell(score: Mapping[str, float]) -> str:
    return f"**{score['accuracy']:.3f}** ({score['accuracy_low']:.3f} to {score['accuracy_high']:.3f})"


def seed_values(seeds: Mapping[str, Any], model: str, score: str) -> list[float]:
    """List a score of a model, one number a seed, from reports/seeds.json."""
    return [scores[model][score] for scores in seeds.values()]


def seed_table(seeds: Mapping[str, Any]) -> str:
    """Format the accuracies over training seeds in reports/seeds.json."""
    header = [f"over seeds {', '.join(seeds)}", "validation accuracy", "test accuracy", "standard deviation", "range"]
    rows = []
    for model in next(iter(seeds.values())):
        valid, test = (seed_values(seeds, model, score) for score in ("valid_accuracy", "accuracy"))
        spread = f"{stdev(test):.3f}", f"{min(test):.3f} to {max(test):.3f}"
        rows.append([title(model), f"{mean(valid):.3f}", f"**{mean(test):.3f}**", *spread])
    return markdown(header, rows)


def standard_error(share: float, questions: int) -> float:
    """Compute the standard error of a share of independent questions."""
    return (share * (1 - share) / questions) ** 0.5


def replace_block(text: str, begin: str, end: str, block: str) -> str:
    """Replace the text between two marks.

    Raises:
        QcError: A mark is missing.
    """
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if begin not in text or end not in rest:
        raise QcError(f"the marks {begin} and {end} are missing; `git log -p` shows where they were")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def write_block(path: Path, begin: str, end: str, block: str) -> None:
    """Replace the text between two marks of a file, see `replace_block`."""
    text = replace_block(path.read_text(encoding="utf-8"), begin, end, block)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{path}: written")
