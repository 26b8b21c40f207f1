"""Mutation run: change one thing in a module, run the tests that are about it, and see whether one of them fails.

    python -m tests.mutate                                 40 mutants of every module of MODULES
    python -m tests.mutate split/groups --sample 200       of one

mutmut makes the mutants. Each is written into a temporary copy of the repository, because tests run programs in copies
of the tree that they lie in. Prints the survivors as diffs, and the score of each module; exits with 1 if any survived.
"""

import argparse
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutmut.mutation.file_mutation import create_mutations
from tqdm import tqdm

from tests.project import ROOT, tracked_files

MODULES = {  # the test files about each
    "commands/gate": ["gate"],
    "commands/labels": ["labels"],
    "evaluation/metrics": ["metrics"],
    "evaluation/scores": ["metrics", "report"],
    "fetch/fetcher": ["fetching", "hub"],
    "fetch/http": ["fetching", "hub"],
    "fetch/resolve": ["fetching", "hub"],
    "inference/model_folder": ["predict", "trust"],
    "models/common": ["attention", "dropout", "scratch", "training"],
    "models/distilbert": ["encoders", "training"],
    "models/encoder": ["encoders", "attention", "dropout"],
    "models/prefix": ["encoders", "training"],
    "models/registry": ["registry"],
    "models/scratch": ["scratch", "training"],
    "questions/reader": ["questions"],
    "split/audit": ["audit"],
    "split/groups": ["splits", "audit"],
    "split/splits": ["splits", "audit"],
    "training/checkpoints": ["resume"],
    "training/loop": ["training", "resume"],
}
SLACK = 60  # seconds that a mutant's tests may take longer than three times those of the unchanged module


def mutants(path: Path, sample: int) -> list[str]:
    """Texts of a module, each with one change: a random sample, the same in every run."""
    module, changes, *_ = create_mutations(str(path), path.read_text(encoding="utf-8"))
    chosen = random.Random(1).sample(changes, min(sample, len(changes)))
    return [module.deep_replace(change.original_node, change.mutated_node).code for change in chosen]


def copy_repository(folder: Path) -> Path:
    """Copy the repository's files into a folder."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # the tests ask git for the files
    return folder


def tests_pass(copy: Path, tests: list[str], seconds: float | None = None) -> bool:
    """Whether these test files pass in a copy of the repository, within a time."""
    command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
    command += [f"tests/test_{name}.py" for name in tests]
    # Python knows a stale .pyc by size and second, which a mutant may share with the one before.
    environment = {**os.environ, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        try:
            return run.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            run.terminate()
            return False


def survivors(name: str, sample: int, copy: Path) -> tuple[int, list[str]]:
    """Number of mutants of a module, and the diffs of those that its tests do not see."""
    file, tests, begin = Path(f"src/qc/{name}.py"), MODULES[name], time.monotonic()
    if not tests_pass(copy, tests):
        sys.exit(f"error: {', '.join(tests)} fail without any mutant")
    allowed = 3 * (time.monotonic() - begin) + SLACK
    original, texts, diffs = (ROOT / file).read_text(encoding="utf-8"), mutants(ROOT / file, sample), []
    for text in tqdm(texts, name, unit="mutant", leave=False, disable=None):
        (copy / file).write_text(text, encoding="utf-8")
        if tests_pass(copy, tests, allowed):
            lines = (code.splitlines(keepends=True) for code in (original, text))
            diffs.append("".join(difflib.unified_diff(*lines, str(file), str(file), n=1)))
    (copy / file).write_text(original, encoding="utf-8")
    return len(texts), diffs


def main() -> None:
    """Mutate the modules that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="Mutate modules, and run their tests.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"one of {', '.join(MODULES)}")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module")
    options, missed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_repository(Path(folder))
        for name in options.modules or MODULES:
            count, diffs = survivors(name, options.sample, copy)
            print(*diffs, f"{name}: {count - len(diffs)} of {count} mutants killed", sep="\n", flush=True)
            missed += len(diffs)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
