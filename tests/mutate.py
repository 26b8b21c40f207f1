"""Mutation run: change one thing in a module, run the tests that are about it, and see whether one of them fails.

    python -m tests.mutate                                 40 mutants of every module of MODULES
    python -m tests.mutate split/groups --sample 200       of one
    OMP_NUM_THREADS=1 python -m tests.mutate --processes 8  eight at a time

mutmut makes the mutants. Each is written into a temporary copy of the repository, because tests run programs in copies
of the tree that they lie in. Prints a line a mutant as it is tried, the survivors as diffs, and the score of each
module; exits with 1 if any survived.
"""

import argparse
import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue

from mutmut.mutation.file_mutation import create_mutations

from tests import fork_server
from tests.project import PROGRAMS, ROOT, tracked_files

MODULES = {  # the test files about each, those that take seconds first
    "evaluation/metrics": ["metrics"],
    "evaluation/scores": ["metrics"],
    "inference/temperature": ["metrics"],
    "split/groups": ["splits", "audit"],
    "split/splits": ["splits", "audit"],
    "split/audit": ["audit"],
    "commands/gate": ["gate"],
    "questions/labels": ["questions"],
    "questions/reader": ["questions"],
    "models/common": ["dropout", "attention", "scratch", "training"],
    "models/scratch": ["scratch"],
    "config/sources": ["settings", "fetching"],
    "fetch/fetcher": ["fetching", "hub"],
    "fetch/http": ["fetching", "hub"],
    "fetch/resolve": ["fetching", "hub"],
    "training/optimizer": ["optimizer"],
    "training/loop": ["training"],
    "inference/batches": ["training"],
    "inference/logits": ["training", "predict"],
    "models/prefix": ["encoders"],
    "models/distilbert": ["encoders"],
    "models/encoder": ["attention", "dropout", "encoders"],
    "models/registry": ["registry"],
    "commands/labels": ["labels"],
    "evaluation/cards": ["cards"],
    "training/checkpoints": ["resume"],
    "inference/model_folder": ["predict", "trust"],
}
UNSEEN = {  # changes of a diff that no test can see, and why
    r"^-(.*zip\(.*), strict=True(.*)\n\+\1, (strict=\w+)?\2$": "what is zipped is of one length anyway",
    r"^-\w+ = .*\n\+\w+ = None  # (fields by use|a row)": "a type is for readers",
    r"^-.*(\.device\b|non_blocking)": "of a GPU, where tests/test_gpu.py is run",
    r"^\+.*ids.max\(\) \+ 2  # texts first": "a node that nothing is linked to",
    r"^-.*GPU_MULTIPLE.*\n-        \)$": "the value of a field that has it by default",
    r'^\+.*config\.get\("encoder", "XXXX"\)': "the model from scratch loads no encoder",
    r"^-    checksum = 0": "a sum may begin anywhere",
    r"^-.*argsort\(-confidence, kind=": "equal confidence is answered together",
    r"^-HALVINGS = ": "beyond the precision of a double",
    r"^-.*dtype=np.int8\)": "a smaller array",
    r'^\+.*"FP32"': "any word but bf16 is fp32",
    r"^-    return 64 if device": "how many at a time is a matter of speed",
    r"^-.*(slope\((COLDEST|HOTTEST)\) [<>]= 0|slope\(math.exp\(middle\)\) > 0)": "a slope of exactly 0",
}
SLACK = 60  # seconds that a mutant's tests may take longer than three times those of the unchanged module


def mutants(name: str, sample: int) -> Iterator[tuple[str, str]]:
    """Texts of a module, each with one change, and their diffs: a random sample, the same in every run."""
    file = f"src/qc/{name}.py"
    original = (ROOT / file).read_text(encoding="utf-8")
    module, changes, *_ = create_mutations(file, original)
    for change in random.Random(1).sample(changes, min(sample, len(changes))):
        text = module.deep_replace(change.original_node, change.mutated_node).code
        lines = (code.splitlines(keepends=True) for code in (original, text))
        diff = "".join(difflib.unified_diff(*lines, file, file, n=1))
        if not any(re.search(unseen, diff, re.MULTILINE) for unseen in UNSEEN):
            yield text, diff


def copy_repository(folder: Path) -> Path:
    """Copy the repository's files into a folder."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # the tests ask git for the files
    return folder


def tests_pass(copies: Queue[Path], name: str, text: str | None = None, seconds: float | None = None) -> bool:
    """Whether a module's tests pass within a time, in a copy of the repository where its text is this one."""
    files = [f"tests/test_{test}.py" for test in MODULES[name]]
    command = [Path(os.environ[PROGRAMS], "python"), "-m", "pytest", "-qx", *files]
    copy = copies.get()
    file = copy / f"src/qc/{name}.py"
    original = file.read_text(encoding="utf-8")
    file.write_text(text or original, encoding="utf-8")
    # Python knows a stale .pyc by size and second, which a mutant may share with the one before.
    shutil.rmtree(file.with_name("__pycache__"), ignore_errors=True)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run(command, cwd=copy, timeout=seconds, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        file.write_text(original, encoding="utf-8")
        copies.put(copy)


def allowed_seconds(copies: Queue[Path], name: str) -> float | None:
    """Seconds that the tests of a mutant may take; None if they fail without one."""
    begin = time.monotonic()
    return 3 * (time.monotonic() - begin) + SLACK if tests_pass(copies, name) else None


def survives(copies: Queue[Path], name: str, text: str, allowed: Future[float | None]) -> bool | None:
    """Whether the tests of a module pass with this text of it; None if they do not without any mutant."""
    seconds = allowed.result()
    return None if seconds is None else tests_pass(copies, name, text, seconds)


def main() -> None:
    """Mutate the modules that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description="Mutate modules, and run their tests.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"one of {', '.join(MODULES)}")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module")
    parser.add_argument("--processes", type=int, default=1, help="mutants that are tried at a time")
    options, scores, copies = parser.parse_args(), defaultdict(Counter), Queue()
    plugins = "-p xdist -p _hypothesis_pytestplugin -p no:unraisableexception"  # others take seconds to load
    os.environ |= {"PYTHONPATH": "src", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": plugins}
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as servers,
        fork_server.running(Path(servers)) as programs,
        ThreadPoolExecutor(options.processes) as pool,
    ):
        os.environ[PROGRAMS] = str(programs)
        for number in range(options.processes):
            copies.put(copy_repository(Path(folder) / str(number)))
        # All of these begin before the first mutant does, which waits for that of its module.
        allowed = {name: pool.submit(allowed_seconds, copies, name) for name in options.modules or MODULES}
        runs = {
            pool.submit(survives, copies, name, text, seconds): (name, diff)
            for name, seconds in allowed.items()
            for text, diff in mutants(name, options.sample)
        }
        for run in as_completed(runs):
            name, diff = runs[run]
            outcome = {None: "not tried", True: "survived", False: "killed"}[run.result()]
            scores[name][outcome] += 1
            print(f"{outcome}: {name}", *[diff] * (outcome == "survived"), sep="\n", flush=True)
    for name, score in scores.items():
        print(f"{name}: {score['killed']} of {score['killed'] + score['survived']} mutants killed")
    for name in {name for name, score in scores.items() if score["not tried"]}:
        print(f"error: {name}: {', '.join(MODULES[name])} fail without any mutant")
    sys.exit(any(set(score) != {"killed"} for score in scores.values()))


if __name__ == "__main__":
    main()
