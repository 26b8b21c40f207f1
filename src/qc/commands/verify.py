"""Run the last commit twice from nothing in two places, and compare every byte.

Both runs fetch, tokenize, split, train and evaluate in fresh clones with caches of their own. Then every output, and
dvc.lock, are compared with each other, and dvc.lock with that of the commit.
"""

import hashlib
import os
import subprocess
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

import yaml

from qc.errors import QcError
from qc.files import file_sha256
from qc.paths import LOCK


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command: none."""


def run(arguments: Namespace) -> int:
    """Run twice, compare and print the table; the exit status."""
    if subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout:
        print("note: the last commit is verified, without the changes since", flush=True)
    with tempfile.TemporaryDirectory() as name:
        first, second = (run_from_nothing(Path(name), number) for number in (1, 2))
    lines, different = compare_outputs(first, second)
    print("\n".join(lines))
    if different:
        raise QcError(f"{different} of {len(lines)} outputs differ between two runs of the same commit")
    recorded = subprocess.run(["git", "show", f"HEAD:{LOCK}"], capture_output=True).stdout
    agrees = hashlib.sha256(recorded).hexdigest() == first[str(LOCK)]
    print(f"two runs, {len(lines)} outputs, the same bytes; {LOCK} of the commit {'agrees' if agrees else 'differs'}")
    return 0


def run_from_nothing(place: Path, number: int) -> dict[str, str]:
    """Clone HEAD into `place` without its dvc.lock, run the pipeline there, and hash its outputs."""
    root = place / f"run{number}"
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(place / f"site{number}")}
    subprocess.run(["git", "clone", "--quiet", "--local", ".", str(root)], check=True)
    (root / LOCK).unlink(missing_ok=True)
    print(f"run {number} of 2: dvc repro in {root}", flush=True)
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
