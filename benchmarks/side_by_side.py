"""What two processes gain over one, and stages and experiments side by side over one after the other.

Writes benchmarks/side_by_side.json and the table of docs/performance.md; run after `make run`, about nine minutes.

    python -m benchmarks.side_by_side
"""

import re
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.scale import PAGE
from qc.commands.tables import write_block
from qc.config.settings import Settings
from qc.errors import QcError
from qc.evaluation.tables import markdown
from qc.files import write_json
from qc.models.registry import MODELS
from qc.stage import run

RESULTS = Path("benchmarks/side_by_side.json")
BEGIN, END = "<!-- written by `python -m benchmarks.side_by_side` -->", "<!-- end of it -->"
EPOCHS = 4
TORCHRUN = "torchrun --standalone --nproc-per-node=2"
# What starts a stage, and the threads of the machine it may take.
WAYS = {
    "1 process, 1 thread": ("python", 1),
    "1 process, 2 threads": ("python", 2),
    "2 processes, 1 thread each": (TORCHRUN, 2),
}
# One stage, beside others. A process that finds DVC's lock taken gives up after 3 seconds; with the option it waits.
ONE_STAGE = ("dvc", "--wait-for-lock", "repro", "--single-item")
CASES = (("train_scratch", 32), ("train_distilbert", 32), ("train_distilbert", 256))  # stage, batch size


def command(folder: Path, *words: str) -> str:
    """Run a command in a folder; what it printed, or QcError."""
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise QcError(f"`{' '.join(words)}` failed: {done.stdout}")
    return done.stdout


def epoch_seconds(folder: Path, stage: str, launcher: str) -> list[float]:
    """Seconds of the epochs of a stage, but the first."""
    process = subprocess.Popen(
        ["env", "PYTHONPATH=src", *launcher.split(), "-m", f"stages.{stage}"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    moments = [time.perf_counter() for line in process.stdout if line.startswith("epoch ")]
    if process.wait():
        raise QcError(f"stages.{stage} failed in {folder}; {RESULTS} stays as it was")
    return [after - before for before, after in pairwise(moments)]


def set_value(folder: Path, key: str, value: object) -> None:
    """Put a value at the top of params.yaml, or that of every section that has the key."""
    path = folder / "params.yaml"
    text = re.sub(rf"(?m)^( *{key}:) [^#\n]*", rf"\1 {value}  ", path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")


def processes(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds an epoch, by case and way of starting it."""
    set_value(folder, "epochs", EPOCHS)
    results: dict[str, dict[str, float]] = {}
    for stage, batch_size in CASES:
        set_value(folder, "batch_size", batch_size)
        case = results[f"{stage}, batch size {batch_size}"] = {}
        for way, (launcher, threads) in WAYS.items():
            set_value(folder, "threads", threads)
            case[way] = statistics.median(epoch_seconds(folder, stage, launcher))
            print(f"{stage}, {batch_size}, {way}: {case[way]:.2f} s an epoch", flush=True)
    command(folder, "git", "checkout", "--quiet", "params.yaml")
    return results


def queued(folder: Path, jobs: int) -> float:
    """Seconds that DVC's queue takes for two experiments, with this many workers."""
    for _ in range(2):
        rate = 2e-4 + time.time_ns() % 10**6 * 1e-11  # one that was never run, or the run cache would answer
        command(
            folder, "dvc", "exp", "run", "--queue",
            "-S", f"train_distilbert.learning_rate={rate}", "-S", f"train_distilbert.epochs={EPOCHS}",
        )  # fmt: skip
    begin = time.perf_counter()
    command(folder, "dvc", "queue", "start", "--jobs", str(jobs))
    while re.search(r"(Queued|Running)\s*$", said := command(folder, "dvc", "queue", "status"), re.MULTILINE):
        time.sleep(2)  # each look costs a second of a core
    if said.count("Success") < 2:
        raise QcError(f"an experiment failed: {said}")
    seconds = time.perf_counter() - begin
    command(folder, "dvc", "queue", "remove", "--all")
    print(f"two experiments, {jobs} at a time: {seconds:.1f} s", flush=True)
    return seconds


def train_all(folder: Path, way: str) -> float:
    """Seconds that the training stages take by `dvc repro`, side by side or one after the other."""
    set_value(folder, "seed", time.time_ns() % 10**8)  # one that was never run, or the run cache would answer
    command(folder, "dvc", "repro", "split")
    stages = [f"train_{model}" for model in MODELS]
    begin = time.perf_counter()
    beside = way == "side by side"
    words = ("env", "GOMP_SPINCOUNT=600", *ONE_STAGE) if beside else ONE_STAGE
    with ThreadPoolExecutor(len(stages) if beside else 1) as pool:
        list(pool.map(lambda stage: command(folder, *words, stage), stages))
    seconds = time.perf_counter() - begin
    command(folder, "git", "checkout", "--quiet", ".")
    command(folder, "dvc", "checkout")
    print(f"training stages, {way}: {seconds:.1f} s", flush=True)
    return seconds


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = [[case, *(f"{seconds[way]:.2f}" for way in WAYS)] for case, seconds in results["processes"].items()]
    one, two = results["queue"].values()
    after, beside = results["stages"].values()
    words = (
        f"Two experiments by DVC's queue: {one:.0f} s one after the other, {two:.0f} s two at a time. The three "
        f"training stages: {after:.0f} s one after the other, {beside:.0f} s side by side."
    )
    return f"{markdown(['seconds an epoch', *WAYS], rows)}\n\n{textwrap.fill(words, 120)}"


def main(_: Settings) -> None:
    """Measure all in a clone, write results and table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clone"
        command(Path(), "git", "clone", "--quiet", ".", str(folder))
        cache = Path(command(Path(), "dvc", "cache", "dir").strip()).resolve()
        command(folder, "dvc", "config", "--local", "cache.dir", str(cache))
        command(folder, "dvc", "checkout")
        for key in ("user.name", "user.email"):  # experiments are commits
            command(folder, "git", "config", key, "benchmark@localhost")
        results = {
            "processes": processes(folder),
            "queue": {str(jobs): queued(folder, jobs) for jobs in (1, 2)},
            "stages": {way: train_all(folder, way) for way in ("one after the other", "side by side")},
        }
    write_json(RESULTS, results)
    write_block(PAGE, BEGIN, END, table(results))


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("usage: python -m benchmarks.side_by_side")
    run(main)
