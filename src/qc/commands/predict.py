"""Classify texts with a trained model: those given, or those of a file or of standard input.

qc predict "Who wrote Hamlet ?"
qc predict --file questions.txt --json --top 3
qc predict --file tickets.csv --column message --csv > answers.csv
zcat tickets.jsonl.gz | qc predict - --format jsonl --column message --csv > answers.csv

Input is read twice: once to refuse an invalid line before anything is printed, and once to classify it, some thousand
texts at a time. So it may be larger than memory. Standard input and pipes are read to their end first, into a temporary
file.
"""

import json
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from qc.errors import QcError, from_the_top, reason
from qc.files import csv_writer, escape_formula, read_json
from qc.inference.predictor import Prediction, Predictor, check_texts, load
from qc.paths import MODELS, REPORTS
from qc.questions.reader import read_questions

CHUNK = 2048  # texts that are classified at a time
STANDARD_INPUT = "-"
UNSURE = "?"  # what is printed in the place of a class below --min-confidence
COLUMNS = ["line", "text", "label", "probability"]
FORMATS = ("txt", "csv", "tsv", "jsonl", "label")
Numbered = Iterable[tuple[int, str]]  # a text and the number of its line, from 1


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text, in quotes; - for standard input")
    parser.add_argument(
        "--file", type=Path, help="a file with a text a line, or .csv, .tsv, .jsonl or .label; - for standard input"
    )
    parser.add_argument("--format", choices=FORMATS, help="format of the file; default: by its extension, else txt")
    parser.add_argument("--column", metavar="NAME", help="column, or key of jsonl, with the text; default: text")
    parser.add_argument("--skip-empty", action="store_true", help="leave out empty texts, rather than refuse them")
    parser.add_argument(
        "--model", help="a trained model: its name, or its folder with a slash; default: the best on validation"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="an object a line: text, label, probabilities")
    form.add_argument("--csv", action="store_true", help=f"a table: {', '.join(COLUMNS)}")
    parser.add_argument(
        "--raw", action="store_true", help="in --csv, no apostrophe before what a spreadsheet would run as a formula"
    )
    parser.add_argument(
        "--top", type=int, metavar="K", help="show the K most probable classes; default: 1, with --json all"
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        metavar="P",
        help=f"abstain below this probability, 0 to 1: {UNSURE}, with --json null, with --csv an empty label; "
        "probabilities are then calibrated on validation",
    )


def run(arguments: Namespace) -> int:
    """Print a line a text; the exit status."""
    top, least = arguments.top, arguments.min_confidence
    if top is not None and top < 1:
        raise QcError(f"--top: invalid value {top}; expected 1 or more")
    if least is not None and not 0 <= least <= 1:
        raise QcError(f"--min-confidence: invalid value {least}; expected 0 to 1")
    if arguments.csv and top is not None:
        raise QcError("--top and --csv: expected one of them; --json shows the K most probable classes")
    if arguments.raw and not arguments.csv:
        raise QcError("--raw: expected --csv with it")
    with choose_texts(arguments) as (where, texts, total):
        folder = model_folder(arguments.model or best_model())
        predictor = load(folder)
        if least is not None:
            predictor.temperature = predictor.trained.temperature or 1.0
            if predictor.trained.temperature is None:
                why = "no temperature could be fitted on validation"
                print(f"warning: {folder}: probabilities are not calibrated, since {why}", file=sys.stderr)
        if arguments.csv:
            table = csv_writer(sys.stdout)
            table.writerow(COLUMNS)
        for line, answer in classify(predictor, texts, total, where):
            confidence = answer.probabilities[answer.label]
            label = answer.label if least is None or confidence >= least else None
            if arguments.json:
                content = {} if given(arguments) else {"line": line}
                content |= {"text": answer.text, "label": label}
                content |= {} if least is None else {"abstained": label is None}
                probabilities = ranked(answer, top) if top else answer.probabilities.items()
                content["probabilities"] = {name: round(probability, 6) for name, probability in probabilities}
                print(json.dumps(content, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower()))
            elif arguments.csv:
                row = [line, answer.text, label, f"{confidence:.6f}"]
                table.writerow(row if arguments.raw else map(escape_formula, row))
            else:
                print(as_text(answer, label, top or 1))
    return 0


def given(arguments: Namespace) -> list[str]:
    """The texts that are arguments, rather than lines of a file or of standard input."""
    return [] if arguments.texts == [STANDARD_INPUT] else arguments.texts


@contextmanager
def choose_texts(arguments: Namespace) -> Iterator[tuple[str, Numbered, int]]:
    """Choose where the texts come from: what stands before a number in messages, the texts, and how many there are."""
    named, file = given(arguments), arguments.file
    if arguments.texts and file:
        raise QcError("TEXT and --file: expected one of them")
    if named:
        if arguments.column or arguments.format or arguments.skip_empty:
            raise QcError("--column, --format and --skip-empty: expected a file or standard input, found TEXT")
        yield "text ", enumerate(check_texts(named), start=1), len(named)
        return
    file = None if file is None or str(file) == STANDARD_INPUT else file
    name = str(file or "standard input")
    ending = f".{arguments.format}" if arguments.format else file.suffix.lower() if file else ""
    if arguments.column and ending not in (".csv", ".tsv", ".jsonl"):
        raise QcError(
            f"--column: invalid value {arguments.column!r}; expected a .csv, .tsv or .jsonl file, or one of these as "
            "--format"
        )
    with _opened(file, name) as stream:

        def texts() -> Numbered:
            columns = {"text": arguments.column or "text"}
            questions = read_questions(stream, ending, columns, name, "--column", arguments.skip_empty)
            return ((number, question.text) for number, question in questions)

        total = sum(1 for _ in texts())
        yield f"{name}:", texts(), total


@contextmanager
def _opened(file: Path | None, name: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input, to be read twice; what can be read once is copied to a temporary file."""
    if file is None and sys.stdin is None:
        raise QcError("standard input is closed; give texts, or a file with --file")
    doing = "read"
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(file.open("rb")) if file else sys.stdin.buffer
            if not (file and stream.seekable()):
                doing = f"copied to {tempfile.gettempdir()}"
                source, stream = stream, stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(source, stream)
        except OSError as error:
            raise QcError(f"{name}: cannot be {doing}: {reason(error)}{from_the_top()}") from None
        yield stream


def model_folder(model: str) -> Path:
    """Folder of a model that is named, or given as a path with a slash."""
    return Path(model) if "/" in model else MODELS / model


def classify(predictor: Predictor, texts: Numbered, total: int, where: str) -> Iterator[tuple[int, Prediction]]:
    """Classify numbered texts, some at a time; warns of those that were cut, and shows progress on a terminal."""
    texts = iter(texts)
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()  # answers on the terminal are progress enough
    with tqdm(total=total, unit=" texts", disable=hidden) as bar:
        while chunk := list(islice(texts, CHUNK)):
            numbers, content = zip(*chunk, strict=True)
            for number, answer in zip(numbers, predictor.predict(content), strict=True):
                if answer.truncated:
                    longest = predictor.trained.max_length
                    print(f"warning: {where}{number} is longer than {longest} tokens, and was cut", file=sys.stderr)
                yield number, answer
            bar.update(len(chunk))


def best_model() -> str:
    """Name of the model of the highest validation accuracy; ties go to the lowest validation loss."""
    names = [path.parent.name for path in sorted(MODELS.glob("*/config.json"))]
    if not names:
        raise QcError(f"{MODELS}: no trained model; `dvc repro` trains them, `dvc pull` fetches them{from_the_top()}")
    if len(names) == 1:
        return names[0]
    if missing := [name for name in names if not (REPORTS / f"train_{name}.json").is_file()]:
        raise QcError(f"{REPORTS}: no scores of {', '.join(missing)} to choose by; name a model: --model {missing[0]}")
    scores = {name: read_json(REPORTS / f"train_{name}.json")["valid"] for name in names}
    return max(names, key=lambda name: (scores[name]["accuracy"], -scores[name]["loss"]))


def as_text(answer: Prediction, label: str | None, top: int) -> str:
    """Format a prediction as one line: the most probable classes, and the text; None for an abstention."""
    names = [(f'"{name}"' if name == UNSURE else name, value) for name, value in ranked(answer, top)]
    unsure = [UNSURE] if label is None else []
    line = "  ".join([*unsure, *(f"{name} {probability:.3f}" for name, probability in names), answer.text])
    return "".join(sign if sign.isprintable() or sign == "\t" else ascii(sign)[1:-1] for sign in line)


def ranked(answer: Prediction, top: int) -> list[tuple[str, float]]:
    """The most probable classes with their probabilities."""
    return sorted(answer.probabilities.items(), key=lambda item: -item[1])[:top]
