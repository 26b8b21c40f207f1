"""Time and memory of tokenize, split and an epoch of scratch on ever more questions; writes benchmarks/scale.json.

The questions are generated, each different from the others; run after `make run`, whose encoder has the tokenizer. Each
stage runs as `dvc repro` runs it, a process of its own, in a folder of its own; its memory is the most that the process
had resident at once.

    python -m benchmarks.scale                     10,000, 100,000 and 1,000,000 questions (about twelve minutes)
    python -m benchmarks.scale 5000 20000          other numbers
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.ours import peak_memory
from qc.commands.tables import write_block
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import markdown
from qc.files import TOKENIZER, read_json, write_json
from qc.paths import ENCODERS, FILES, PARAMS, RAW, SOURCES
from qc.stage import run

RESULTS = Path("benchmarks/scale.json")
PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- written by `python -m benchmarks.scale` -->", "<!-- end -->"
SIZES = (10_000, 100_000, 1_000_000)
STAGES = ("tokenize", "split", "train_scratch")
CLASSES = {"HUM": "who", "LOC": "where", "NUM": "how many", "DESC": "why", "ENTY": "what", "ABBR": "what does"}


def questions(count: int, words: list[str]) -> Iterator[str]:
    """Lines of a label file: a question word that gives the class away, then words drawn as Zipf's law has them."""
    rng = random.Random(count)
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    for start in range(0, count, 10_000):
        drawn = iter(rng.choices(words, weights, k=10_000 * 18))
        for number in range(start, min(count, start + 10_000)):
            name = rng.choice(list(CLASSES))
            text = " ".join(next(drawn) for _ in range(rng.randint(3, 17)))
            yield f"{name}:fine{number % 8} {CLASSES[name]} {text} {number} ?\n"


def lay_out(folder: Path, count: int) -> None:
    """What the fetch stage would leave: a file of questions and an encoder; params.yaml with one epoch of scratch."""
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params["train_scratch"] |= {"epochs": 1}
    for path in (PARAMS, SOURCES):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(yaml.safe_dump(params) if path == PARAMS else path.read_text(encoding="utf-8"))
    (folder / ENCODERS).symlink_to(ENCODERS.resolve())
    vocabulary = read_json(ENCODERS / params["train_scratch"]["tokenizer"] / TOKENIZER)["model"]["vocab"]
    words = [word for word in vocabulary if re.fullmatch("[a-z]{2,}", word)]
    (folder / RAW).mkdir()
    with (folder / RAW / "train.label").open("w", encoding="latin-1") as file:
        file.writelines(questions(count, words))
    write_json(folder / FILES, {"train": {**read_json(FILES)["train"], "file": "train.label"}})


def measured(stage: str, folder: Path) -> dict[str, float]:
    """Run a stage; seconds, and the most MiB that its process had resident."""
    begin, most = time.perf_counter(), 0.0
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{Path('src').resolve()}"}
    process = subprocess.Popen([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment)
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise QcError(f"stages.{stage} failed, see above; {RESULTS} stays as it was")
    return {"seconds": time.perf_counter() - begin, "mib": most}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    cell = "{seconds:.1f} s, {mib:,.0f} MiB"
    rows = [[f"{int(count):,}", *(cell.format(**sizes[stage]) for stage in STAGES)] for count, sizes in results.items()]
    return markdown(["questions", *STAGES], rows)


def main(_: Settings) -> None:
    """Measure every size, print the table."""
    asked = sys.argv[1:] or [str(size) for size in SIZES]
    if not all(re.fullmatch(r"[1-9]\d{2,8}", size) for size in asked):
        raise QcError(f"sizes: invalid value {' '.join(asked)}; expected whole numbers from 100")
    if not FILES.is_file():
        raise QcError(f"{FILES}: no such file; run `make run` first")
    results = {}
    for size in asked:
        with tempfile.TemporaryDirectory() as name:
            lay_out(Path(name), int(size))
            results[size] = {stage: measured(stage, Path(name)) for stage in STAGES}
        print(table(results), flush=True)
    write_json(RESULTS, results)
    write_block(PAGE, BEGIN, END, table(results))


if __name__ == "__main__":
    run(main)
