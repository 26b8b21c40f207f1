"""qc predict: tell the class of questions."""

import codecs
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from qc.artifacts import read_json
from qc.commands import METRICS, MODELS
from qc.errors import QcError, from_the_top, reason
from qc.prediction import Prediction, load
from qc.questions import fault_of_text

CHUNK = 2048  # questions that are classified at once
TABLES = (".csv", ".tsv", ".label")  # files with more in a line than a question
STANDARD_INPUT = "-"


def run(arguments: Namespace) -> int:
    """Print a line a question; the exit status."""
    if arguments.top < 1:
        raise QcError(f"--top: {arguments.top} is not possible; allowed: 1 or more")
    questions = list(read_questions(arguments.questions, arguments.file))
    predictor = load(MODELS / (arguments.model or best_model()))
    for start in range(0, len(questions), CHUNK):
        for place, found in enumerate(predictor.predict(questions[start : start + CHUNK]), start=start + 1):
            if found.truncated:
                longest = predictor.classifier.max_length
                print(f"warning: question {place} is longer than {longest} tokens, and was cut", file=sys.stderr)
            print(as_json(found) if arguments.json else as_text(found, arguments.top))
    return 0


def best_model() -> str:
    """The trained model of highest validation accuracy; of those, of lowest validation loss."""
    found = {
        path.parent.name: read_json(METRICS / f"train_{path.parent.name}.json")["valid"]
        for path in sorted(MODELS.glob("*/config.json"))
    }
    if not found:
        raise QcError(f"{MODELS}: no model is here; `dvc repro` trains them, `dvc pull` fetches them{from_the_top()}")
    return max(found, key=lambda name: (found[name]["accuracy"], -found[name]["loss"]))


def as_text(found: Prediction, top: int) -> str:
    """The most probable classes, and the question; on one line, whatever it holds."""
    ranked = sorted(found.probabilities.items(), key=lambda item: -item[1])[:top]
    line = "  ".join([*(f"{name} {probability:.3f}" for name, probability in ranked), found.text])
    return "".join(each if each.isprintable() or each == "\t" else ascii(each)[1:-1] for each in line)


def as_json(found: Prediction) -> str:
    """An object on one line."""
    probabilities = {name: round(probability, 6) for name, probability in found.probabilities.items()}
    content = {"text": found.text, "label": found.label, "probabilities": probabilities}
    return json.dumps(content, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())


def read_questions(named: Sequence[str], file: Path | None) -> Iterator[str]:
    """The questions that were asked for: named ones, else those of a file, else of standard input."""
    if named and file:
        raise QcError("questions and --file: one of them at a time")
    if named and list(named) != [STANDARD_INPUT]:
        for number, text in enumerate(named, start=1):
            yield _checked(text, f"question {number}")
        return
    file = None if str(file) == STANDARD_INPUT else file
    if file and file.suffix.lower() in TABLES:
        raise QcError(
            f"{file}: a line of a {file.suffix} file is more than a question; put the questions into a text file, "
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
        raise QcError(f"{name}: no question; one a line is expected")
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
    """The question; QcError where it cannot be used."""
    if fault := fault_of_text(text):
        raise QcError(f"{where}: {fault}; give it some words, or leave it out")
    return text
