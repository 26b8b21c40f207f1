"""The result tables, as Markdown and as text."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from qc.errors import QcError
from qc.files import new_file
from qc.models.registry import MODELS

BASELINES = {"tfidf_svm": "TF-IDF + LinearSVC", "majority": "majority class"}


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a Markdown table; cells stay as they are."""
    return tabulate(rows, headers=header, tablefmt="github", disable_numparse=True)


def title(name: str) -> str:
    """Full name of a model or baseline."""
    return MODELS[name].title if name in MODELS else BASELINES[name]


def result_table(scores: Mapping[str, Any], trainings: Mapping[str, Mapping[str, Any]]) -> str:
    """Make the table of results from reports/test.json and reports/train_NAME.json."""
    header = [
        "",
        "trained parameters",
        "validation accuracy",
        f"test accuracy (95 % interval), {scores['n_test']} questions",
        "macro F1",
        "ECE",
    ]
    rows = [
        [
            title(name),
            f"{training['parameters']['trainable']:,}",
            f"{training['valid']['accuracy']:.3f}",
            accuracy_cell(scores[name]),
            f"{scores[name]['macro_f1']:.3f}",
            f"{scores[name]['ece']:.3f}",
        ]
        for name, training in trainings.items()
    ]
    rows += [[title(name), "", "", accuracy_cell(scores["baselines"][name]), "", ""] for name in BASELINES]
    return f"{markdown(header, rows)}\n\n{comparison_with_tfidf(scores, list(trainings))}"


def comparison_with_tfidf(scores: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say how each model compares with the TF-IDF baseline."""
    baseline = scores["baselines"]["tfidf_svm"]["accuracy"]
    found = []
    for name in names:
        accuracy = scores[name]["accuracy"]
        side = "above" if accuracy > baseline else "below" if accuracy < baseline else "level with"
        found.append(f"{title(name)} {side} it (p = {scores['comparisons'][f'{name}_vs_tfidf_svm']['mcnemar_p']:.2g})")
    return textwrap.fill(f"Compared with TF-IDF by an exact McNemar test: {', '.join(found)}.", 120)


def accuracy_cell(found: Mapping[str, float]) -> str:
    """Format an accuracy with the bounds of its interval."""
    return f"**{found['accuracy']:.3f}** ({found['accuracy_low']:.3f} to {found['accuracy_high']:.3f})"


def accuracy_lines(scores: Mapping[str, Any]) -> str:
    """List the test accuracy of every model and baseline, a line each."""
    found = {name: scores[name] for name in MODELS} | scores["baselines"]
    return "\n".join(
        f"{name:<12} {each['accuracy']:.3f}  ({each['accuracy_low']:.3f} to {each['accuracy_high']:.3f})"
        for name, each in found.items()
    )


def seed_values(seeds: Mapping[str, Any], model: str, score: str) -> list[float]:
    """A score of a model, one number a seed; `seeds` is reports/seeds.json."""
    return [found[model][score] for found in seeds.values()]


def seed_table(seeds: Mapping[str, Any]) -> str:
    """Make the table of accuracies over training seeds from reports/seeds.json."""
    header = [f"over seeds {', '.join(seeds)}", "validation accuracy", "test accuracy", "standard deviation", "range"]
    rows = []
    for model in next(iter(seeds.values())):
        found = seed_values(seeds, model, "accuracy")
        rows.append(
            [
                title(model),
                f"{mean(seed_values(seeds, model, 'valid_accuracy')):.3f}",
                f"**{mean(found):.3f}**",
                f"{stdev(found):.3f}",
                f"{min(found):.3f} to {max(found):.3f}",
            ]
        )
    return markdown(header, rows)


def standard_error(share: float, questions: int) -> float:
    """Standard error of a share of so many questions; more seeds do not make it smaller."""
    return (share * (1 - share) / questions) ** 0.5


def replace_block(text: str, begin: str, end: str, block: str) -> str:
    """Replace the text between two marks.

    Raises:
        QcError: A mark is missing.
    """
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise QcError(f"the marks {begin} and {end} are missing; `git log -p` shows where they were")
    return f"{before}{begin}\n\n{block}\n\n{end}{after}"


def write_block(path: Path, begin: str, end: str, block: str) -> None:
    """Replace the text between two marks of a file, see `replace_block`."""
    text = replace_block(path.read_text(encoding="utf-8"), begin, end, block)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{path}: written")
