"""Run the last commit from nothing, and compare every byte: of two runs, or with the portable record.

    qc verify                two runs; every output, and dvc.lock, are compared, and dvc.lock with that of the commit
    qc verify --portable     a run with `precision: portable`, compared with docs/portable.sha256: does this machine
                             compute what the one of the record did? A run takes about 5 minutes
    qc verify --portable --record    write that file

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

from qc.config.presets import apply_preset, read_preset
from qc.errors import QcError, reason
from qc.files import file_sha256, new_file
from qc.paths import LOCK, PARAMS, PORTABLE_RECORD, PRESETS

PORTABLE = "portable"  # the preset
COMPUTED = ("data/tokenized/", "data/split/", "models/", "metrics/", "plots/", "reports/")  # what a record holds
HEADING = "# SHA-256 of what `qc verify --portable` computes; written by `qc verify --portable --record`"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--portable", action="store_true", help="compare a portable run with the record")
    parser.add_argument("--record", action="store_true", help="with --portable: write the record")


def run(arguments: Namespace) -> int:
    """Run, compare and print the table; the exit status."""
    if arguments.record and not arguments.portable:
        raise QcError("--record: expected beside --portable")
    if subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout:
        print("note: the last commit is verified, without the changes since", flush=True)
    return verify_portable(arguments.record) if arguments.portable else verify_twice()


def verify_portable(record: bool) -> int:
    """Run once with portable arithmetic, and compare with the record or write it; the exit status."""
    with tempfile.TemporaryDirectory() as name:
        found = run_from_nothing(Path(name), 1, 1, PORTABLE)
    made = {path: digest for path, digest in found.items() if path.startswith(COMPUTED)}
    if record:
        text = "".join(f"{digest}  {path}\n" for path, digest in made.items())
        with new_file(PORTABLE_RECORD) as temporary:
            temporary.write_text(f"{HEADING}\n{text}", encoding="utf-8")
        print(f"{PORTABLE_RECORD}: written, {len(made)} outputs")
        return 0
    lines, different = compare_outputs(read_record(), made)
    print("\n".join(lines))
    if different:
        raise QcError(f"{different} of {len(lines)} outputs are not those of {PORTABLE_RECORD}")
    print(f"{len(lines)} outputs, the bytes of {PORTABLE_RECORD}")
    return 0


def read_record() -> dict[str, str]:
    """Read the portable record: SHA-256 by path."""
    try:
        lines = PORTABLE_RECORD.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise QcError(f"{PORTABLE_RECORD}: cannot be read: {reason(error)}; git checkout brings it back") from None
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines if not line.startswith("#"))}


def verify_twice() -> int:
    """Run twice and compare; the exit status."""
    with tempfile.TemporaryDirectory() as name:
        first, second = (run_from_nothing(Path(name), number, 2) for number in (1, 2))
    lines, different = compare_outputs(first, second)
    print("\n".join(lines))
    if different:
        raise QcError(f"{different} of {len(lines)} outputs differ between two runs of the same commit")
    recorded = subprocess.run(["git", "show", f"HEAD:{LOCK}"], capture_output=True).stdout
    agrees = hashlib.sha256(recorded).hexdigest() == first[str(LOCK)]
    print(f"two runs, {len(lines)} outputs, the same bytes; {LOCK} of the commit {'agrees' if agrees else 'differs'}")
    return 0


def run_from_nothing(place: Path, number: int, runs: int, preset: str | None = None) -> dict[str, str]:
    """Clone HEAD into `place` without its dvc.lock, apply a preset, run the pipeline there, and hash its outputs."""
    root = place / f"run{number}"
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(place / f"site{number}")}
    subprocess.run(["git", "clone", "--quiet", "--local", ".", str(root)], check=True)
    (root / LOCK).unlink(missing_ok=True)
    if preset:
        params = root / PARAMS
        text = apply_preset(params.read_text(encoding="utf-8"), read_preset(root / PRESETS, preset))
        params.write_text(text, encoding="utf-8")
    print(f"run {number} of {runs}: dvc repro in {root}", flush=True)
    done = subprocess.run(
        ["dvc", "repro"], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise QcError(f"run {number} failed; `dvc repro` printed:\n{done.stdout}")
    return hash_outputs(root)


def hash_outputs(root: Path) -> dict[str, str]:
    """SHA-256 of dvc.lock and of every output that it names, by path below `root`."""
    stages = yaml.safe_load((root / LOCK).read_text(encoding="utf-8"))["stages"]
    named = [root / out["path"] for stage in stages.values() for out in stage.get("outs", [])]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {str(file.relative_to(root)): file_sha256(file) for file in [*files, root / LOCK] if file.is_file()}


def compare_outputs(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[list[str], int]:
    """Table of the outputs of two runs, a line each, and the number of those that differ."""
    names = sorted(first.keys() | second.keys())
    width = max(map(len, names))
    lines, different = [], 0
    for name in names:
        found = [outputs.get(name) for outputs in (first, second)]
        same = found[0] == found[1]
        different += not same
        shown = found[0] if same else " / ".join(digest[:12] if digest else "missing" for digest in found)
        lines.append(f"{name:<{width}}  {'same     ' if same else 'DIFFERENT'}  {shown}")
    return lines, different
