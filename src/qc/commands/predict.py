"""Classify texts with a trained model: those given, or those of a file, or of standard input, one a line.

qc predict "Who wrote Hamlet ?"
qc predict --file questions.txt --json --top 3
"""

import codecs
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from qc.data.text import fault_of_text
from qc.errors import QcError, from_the_top, reason
from qc.files import read_json
from qc.inference.predictor import Prediction, load
from qc.paths import METRICS, MODELS

CHUNK = 2048  # texts that are classified at a time
TABLES = (".csv", ".tsv", ".label")  # formats with more than a text in a line
STANDARD_INPUT = "-"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text, in quotes; - for standard input")
    parser.add_argument(
        "--file", type=Path, help="one text a line, or a .jsonl file of objects with a text; - for standard input"
    )
    parser.add_argument("--model", help="a trained model; default: the best on validation")
    parser.add_argument("--json", action="store_true", help="an object a line: text, label, probabilities")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K most probable classes")


def run(arguments: Namespace) -> int:
    """Print a line a text; the exit status."""
    if arguments.top < 1:
        raise QcError(f"--top: invalid value {arguments.top}; expected 1 or more")
    texts = list(read_texts(arguments.texts, arguments.file))
    predictor = load(MODELS / (arguments.model or best_model()))
    for start in range(0, len(texts), CHUNK):
        for place, found in enumerate(predictor.predict(texts[start : start + CHUNK]), start=start + 1):
            if found.truncated:
                longest = predictor.trained.max_length
                print(f"warning: text {place} is longer than {longest} tokens, and was cut", file=sys.stderr)
            print(as_json(found) if arguments.json else as_text(found, arguments.top))
    return 0


def best_model() -> str:
    """Name of the model of the highest validation accuracy; ties go to the lowest validation loss."""
    found = {
        path.parent.name: read_json(METRICS / f"train_{path.parent.name}.json")["valid"]
        for path in sorted(MODELS.glob("*/config.json"))
    }
    if not found:
        raise QcError(f"{MODELS}: no trained model; `dvc repro` trains them, `dvc pull` fetches them{from_the_top()}")
    return max(found, key=lambda name: (found[name]["accuracy"], -found[name]["loss"]))


def as_text(found: Prediction, top: int) -> str:
    """Format a prediction as one line: the most probable classes, and the text."""
    ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])[:top]
    line = "  ".join([*(f"{name} {probability:.3f}" for name, probability in ranked), found.text])
    return "".join(each if each.isprintable() or each == "\t" else ascii(each)[1:-1] for each in line)


def as_json(found: Prediction) -> str:
    """Format a prediction as a JSON object on one line."""
    probabilities = {name: round(probability, 6) for name, probability in found.probabilities.items()}
    content = {"text": found.text, "label": found.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())


def read_texts(named: Sequence[str], file: Path | None) -> Iterator[str]:
    """Read the texts given, or those of a file, or of standard input."""
    if named and file:
        raise QcError("TEXT and --file: expected one of them")
    if named and list(named) != [STANDARD_INPUT]:
        for number, text in enumerate(named, start=1):
            yield _checked(text, f"text {number}")
        return
    file = None if str(file) == STANDARD_INPUT else file
    if file and file.suffix.lower() in TABLES:
        raise QcError(
            f"{file}: a line of a {file.suffix} file is more than a text; put the texts into a text file, "
            'one a line, or into a .jsonl file of objects with a "text"'
        )
    name = str(file) if file else "standard input"
    try:
        content = file.read_bytes() if file else sys.stdin.buffer.read()
    except OSError as error:
        raise QcError(f"{name}: cannot be read: {reason(error)}{from_the_top()}") from None
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise QcError(f"{name}: no text; expected one a line")
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        try:
            text = line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise QcError(f"{where}: byte {error.start + 1} is {line[error.start]:#04x}, which is not UTF-8") from None
        if file and file.suffix.lower() == ".jsonl":
            text = _text_of(text, where)
        yield _checked(text, where)


def _text_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise QcError(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise QcError(f'{where}: expected an object with a text, such as {{"text": "Who wrote Hamlet ?"}}')
    return found["text"]


def _checked(text: str, where: str) -> str:
    """Return the text; QcError where it is empty or malformed."""
    if fault := fault_of_text(text):
        raise QcError(f"{where}: {fault}; give it some words, or leave it out")
    return text
