"""Classify texts with a trained model: those given, or those of a file, or of standard input, one a line.

qc predict "Who wrote Hamlet ?"
qc predict --file questions.txt --json --top 3
qc predict --file tickets.csv --column message --csv > answers.csv

A file is read twice: once to refuse an invalid line before anything is printed, and once to classify it, some thousand
texts at a time. So it may be larger than memory.
"""

import csv
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from qc.errors import QcError, from_the_top
from qc.files import read_json
from qc.inference.predictor import Prediction, Predictor, load
from qc.inference.texts import Numbered, checked, read_texts
from qc.paths import MODELS, REPORTS

CHUNK = 2048  # texts that are classified at a time
STANDARD_INPUT = "-"
UNSURE = "?"  # label of a prediction below --min-confidence
COLUMNS = ["line", "text", "label", "probability"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text, in quotes; - for standard input")
    parser.add_argument(
        "--file", type=Path, help="a file with a text a line, or .csv, .tsv or .jsonl; - for standard input"
    )
    parser.add_argument(
        "--column", default="text", metavar="NAME", help="column, or key of .jsonl, with the text; default: text"
    )
    parser.add_argument("--skip-empty", action="store_true", help="leave out empty lines, rather than refuse them")
    parser.add_argument("--model", help="a trained model; default: the best on validation")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="an object a line: text, label, probabilities")
    form.add_argument("--csv", action="store_true", help=f"a table: {', '.join(COLUMNS)}")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K most probable classes")
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help=f"answer {UNSURE} below this probability, 0 to 1; probabilities are then calibrated on validation",
    )


def run(arguments: Namespace) -> int:
    """Print a line a text; the exit status."""
    if arguments.top < 1:
        raise QcError(f"--top: invalid value {arguments.top}; expected 1 or more")
    least = arguments.min_confidence
    if least is not None and not 0 <= least <= 1:
        raise QcError(f"--min-confidence: invalid value {least}; expected 0 to 1")
    where, texts, total = choose_texts(arguments)
    model = arguments.model or best_model()
    predictor = load(MODELS / model)
    if least is not None:
        predictor.temperature = read_temperature(model)
    if arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(COLUMNS)
    for line, found in classify(predictor, texts, total, where):
        confidence = found.probabilities[found.label]
        label = found.label if least is None or confidence >= least else UNSURE
        if arguments.json:
            print(as_json(found, label, None if given_by_hand(arguments) else line))
        elif arguments.csv:
            table.writerow([line, found.text, label, f"{confidence:.6f}"])
        else:
            print(as_text(found, label, arguments.top))
    return 0


def given_by_hand(arguments: Namespace) -> bool:
    """Whether the texts are arguments, rather than lines of a file or of standard input."""
    return arguments.texts not in ([], [STANDARD_INPUT])


def choose_texts(arguments: Namespace) -> tuple[Callable[[int], str], Numbered, int | None]:
    """Choose where the texts come from: a name for each number, the texts, and how many there are, if known."""
    named, file = arguments.texts, arguments.file
    if named and file:
        raise QcError("TEXT and --file: expected one of them")
    if given_by_hand(arguments):
        texts = [(number, checked(text, f"text {number}")) for number, text in enumerate(named, start=1)]
        return (lambda number: f"text {number}"), iter(texts), len(texts)
    if file is None or str(file) == STANDARD_INPUT:
        return (lambda number: f"line {number}"), read_texts(None, skip_empty=arguments.skip_empty), None
    options = (file, arguments.column, arguments.skip_empty)
    total = sum(1 for _ in read_texts(*options)) if file.is_file() or not file.exists() else None  # no pipe, read once
    return (lambda number: f"{file}:{number}"), read_texts(*options), total


def classify(
    predictor: Predictor, texts: Iterable[tuple[int, str]], total: int | None, where: Callable[[int], str]
) -> Iterator[tuple[int, Prediction]]:
    """Classify numbered texts, some at a time; warns of those that were cut, and shows progress on a terminal."""
    texts = iter(texts)
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()  # answers on the terminal are progress enough
    with tqdm(total=total, unit=" texts", disable=hidden) as bar:
        while chunk := list(islice(texts, CHUNK)):
            numbers, content = zip(*chunk, strict=True)
            for number, found in zip(numbers, predictor.predict(content), strict=True):
                if found.truncated:
                    longest = predictor.trained.max_length
                    print(f"warning: {where(number)} is longer than {longest} tokens, and was cut", file=sys.stderr)
                yield number, found
            bar.update(len(chunk))


def best_model() -> str:
    """Name of the model of the highest validation accuracy; ties go to the lowest validation loss."""
    found = {
        path.parent.name: read_json(REPORTS / f"train_{path.parent.name}.json")["valid"]
        for path in sorted(MODELS.glob("*/config.json"))
    }
    if not found:
        raise QcError(f"{MODELS}: no trained model; `dvc repro` trains them, `dvc pull` fetches them{from_the_top()}")
    return max(found, key=lambda name: (found[name]["accuracy"], -found[name]["loss"]))


def read_temperature(model: str) -> float:
    """Read the softmax temperature of a model, which the evaluate stage fitted on validation."""
    scores = read_json(REPORTS / "test.json")
    if model not in scores:
        raise QcError(f"{REPORTS / 'test.json'}: no temperature of {model}; `dvc repro` fits it")
    return scores[model]["calibrated"]["temperature"]


def as_text(found: Prediction, label: str, top: int) -> str:
    """Format a prediction as one line: the most probable classes, and the text."""
    ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])[:top]
    unsure = [] if label == found.label else [label]
    line = "  ".join([*unsure, *(f"{name} {probability:.3f}" for name, probability in ranked), found.text])
    return "".join(each if each.isprintable() or each == "\t" else ascii(each)[1:-1] for each in line)


def as_json(found: Prediction, label: str, line: int | None) -> str:
    """Format a prediction as a JSON object on one line; texts of a file have the number of their line."""
    probabilities = {name: round(probability, 6) for name, probability in found.probabilities.items()}
    content = {} if line is None else {"line": line}
    content |= {"text": found.text, "label": label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())
