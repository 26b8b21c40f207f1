"""Run the last commit from nothing, and compare every byte: of two runs, or with the portable record.

    qc verify                two runs; every output, and dvc.lock, are compared, and dvc.lock with that of the commit
    qc verify --portable     a run with `precision: portable`, compared with docs/portable.sha256: does this machine
                             compute what the one of the record did? A run takes about 5 minutes
    qc verify --record       a portable run, written into that file

A run fetches, tokenizes, splits, trains and evaluates in a fresh clone with a cache of its own.
"""

import hashlib
import os
import subprocess
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

import yaml
from tqdm import tqdm

from qc.commands.seeds import run_dvc
from qc.config.presets import apply_preset
from qc.errors import QcError, reason
from qc.files import file_sha256, new_file
from qc.paths import LOCK, PARAMS, PORTABLE_RECORD, PRESETS

COMPUTED = ("data/tokenized/", "data/split/", "models/", "metrics/", "plots/", "reports/")  # what a record holds
HEADING = "# SHA-256 of what `qc verify --portable` computes; written by `qc verify --portable --record`"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--portable", action="store_true", help="compare a portable run with the record")
    parser.add_argument("--record", action="store_true", help="write the record of a portable run")


def run(arguments: Namespace) -> int:
    """Run, compare and print the table; the exit status."""
    record, portable = arguments.record, arguments.portable or arguments.record
    expected = read_record() if portable and not record else {}
    if subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True).returncode:
        raise QcError("the last commit is what is verified, and git finds none here; `qc doctor` says more")
    if subprocess.run(["git", "status", "--porcelain"], stdout=subprocess.PIPE, check=True).stdout:
        print("note: the last commit is verified, without the changes since", flush=True)
    names = ["run1"] if portable else ["run1", "run2"]
    with tempfile.TemporaryDirectory() as folder:
        runs = [run_from_nothing(Path(folder, name), portable) for name in tqdm(names, unit="run", disable=None)]
    if not portable:
        compare_outputs(*runs, "two runs of the same commit")
        committed = subprocess.run(["git", "show", f"HEAD:{LOCK}"], capture_output=True).stdout
        agrees = hashlib.sha256(committed).hexdigest() == runs[0][str(LOCK)]
        print(f"{LOCK} of the commit {'agrees' if agrees else 'differs'}")
        return 0
    outputs = {path: digest for path, digest in runs[0].items() if path.startswith(COMPUTED)}
    if not record:
        compare_outputs(expected, outputs, f"a run here and {PORTABLE_RECORD}")
        return 0
    with new_file(PORTABLE_RECORD) as temporary:
        lines = [HEADING, *(f"{digest}  {path}" for path, digest in outputs.items())]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{PORTABLE_RECORD}: written, {len(outputs)} outputs")
    return 0


def read_record() -> dict[str, str]:
    """Read the portable record: SHA-256 by path."""
    try:
        lines = PORTABLE_RECORD.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise QcError(
            f"{PORTABLE_RECORD}: cannot be read: {reason(error)}; `git checkout {PORTABLE_RECORD}` restores it"
        ) from None
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines if not line.startswith("#"))}


def run_from_nothing(root: Path, portable: bool) -> dict[str, str]:
    """Clone HEAD to `root` without its dvc.lock, and run the pipeline there; SHA-256 of its outputs by path.

    Raises:
        QcError: A stage failed.
    """
    subprocess.run(["git", "clone", "--quiet", "--local", ".", str(root)], check=True)
    (root / LOCK).unlink(missing_ok=True)
    if portable:
        params = root / PARAMS
        text = apply_preset(params.read_text(encoding="utf-8"), root / PRESETS, "portable")
        params.write_text(text, encoding="utf-8")
    print(f"{root.name}: ", end="", flush=True)
    run_dvc("repro", cwd=root, env={**os.environ, "DVC_SITE_CACHE_DIR": f"{root}-site"})
    stages = yaml.safe_load((root / LOCK).read_text(encoding="utf-8"))["stages"]
    named = [root / out["path"] for stage in stages.values() for out in stage.get("outs", [])]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {str(file.relative_to(root)): file_sha256(file) for file in [*files, root / LOCK] if file.is_file()}


def compare_outputs(expected: Mapping[str, str], outputs: Mapping[str, str], what: str) -> None:
    """Print a line for each output.

    Raises:
        QcError: Some differ, or are missing on one side.
    """
    names = sorted(expected.keys() | outputs.keys())
    different = 0
    for name in names:
        pair = [side.get(name, "missing") for side in (expected, outputs)]
        same = pair[0] == pair[1]
        different += not same
        shown = pair[0] if same else " / ".join(digest[:12] for digest in pair)
        print(f"{name:<{max(map(len, names))}}  {'same' if same else 'DIFFERENT':<9}  {shown}")
    if different:
        raise QcError(f"{different} of {len(names)} outputs differ between {what}")
    print(f"{len(names)} outputs, the same bytes in {what}")
