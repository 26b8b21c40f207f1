"""Check settings, environment, DVC's own files and its cache; say what is wrong and how to correct it.

    qc doctor            check everything
    qc doctor --quick    skip the bytes of the cache and of the outputs
    qc doctor --fix      also repair DVC's files, and remove damaged objects from the cache

DVC writes two of its files in place, so a kill at that moment leaves them broken and stops every later command:
.dvc/tmp/rwlock, which --fix removes, and dvc.lock, which it replaces by git's version. DVC also trusts write-protected
objects of its cache, and outputs of a known size and time, so it does not notice a disk that lost a bit; here every
byte is compared with its hash. After --fix, `dvc pull` or `dvc repro` restores what is missing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import ParseError, parse_yaml
from tqdm import tqdm
from voluptuous import Invalid

from qc.errors import QcError
from qc.paths import LOCK, PARAMS
from qc.runtime.launch import read_launch
from qc.runtime.startup import check_process
from qc.stage import load_settings, load_sources

RWLOCK = Path(".dvc/tmp/rwlock")
GUARDS = {RWLOCK: ".dvc/tmp/rwlock.lock", LOCK: ".dvc/tmp/lock"}  # held by a process that may write the file

# What is wrong, with the remedy; and what repairs it and says so, None where only the user can.
Problem = tuple[str, Callable[[], str] | None]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--quick", action="store_true", help="skip the bytes of the cache and of the outputs")
    parser.add_argument("--fix", action="store_true", help="repair what can be repaired")


def run(arguments: Namespace) -> int:
    """Run the checks and print the answers; exit status 1 where a problem is left."""
    checks = {"settings": check_settings, "environment": check_environment, "DVC's files": check_dvc_files}
    if not arguments.quick:
        checks["cache and outputs"] = check_bytes
    left = 0
    for name, check in checks.items():
        answers = []
        try:
            for message, fix in check():
                if arguments.fix and fix:
                    answers.append(f"{message}; {fix()}")
                else:
                    left += 1
                    answers.append(f"{message}; `qc doctor --fix` repairs it" if fix else message)
        except (QcError, DvcException) as error:
            left += 1
            answers.append(str(error))
        print("\n".join(f"{name}: {answer}" for answer in answers or ["ok"]), flush=True)
    return 1 if left else 0


def check_settings() -> Iterator[Problem]:
    """Check params.yaml, data/sources.yaml, and that the program which starts training is installed."""
    load_sources()
    launcher = load_settings().launcher
    program = next((word for word in launcher.split() if "=" not in word), "")  # after any NAME=value
    if shutil.which(program) is None:
        yield (
            f"{PARAMS}: launcher: invalid value {launcher!r}, there is no {program} here; expected python, "
            "torchrun ..., accelerate launch ..., or another command that is installed",
            None,
        )


def check_environment() -> Iterator[Problem]:
    """Check git, Python, the folder of QC_MIRROR, and the variables of a launcher."""
    if subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode:
        yield (
            "this folder is no git repository, or git does not trust it (see `git status`), and DVC needs one; get the "
            "project by `git clone`, or make a repository of this copy: git init && git add --all && git commit",
            None,
        )
    mirror = os.environ.get("QC_MIRROR")
    if mirror and not Path(mirror).is_dir():
        yield f"QC_MIRROR: {mirror} is no folder; correct the variable, or unset it", None
    read_launch()
    check_process()


def check_dvc_files() -> Iterator[Problem]:
    """Look for files that a killed DVC left half-written."""
    for path, guard in GUARDS.items():
        if is_broken(path):
            Path(guard).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(LockError), make_lock(guard):  # a process that writes it now holds the lock
                if is_broken(path):
                    yield f"{path}: broken, DVC was killed while it wrote this file", partial(repair, path)


def is_broken(path: Path) -> bool:
    """Whether the file exists and DVC cannot read it; a dvc.lock with a merge conflict is not broken."""
    try:
        text = path.read_text(encoding="utf-8")
        if path == RWLOCK:
            json.loads(text)
        elif "<<<<<<< " not in text:
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, str(path)))
    except FileNotFoundError:
        return False
    except (ValueError, ParseError, Invalid):
        return True
    return False


def repair(path: Path) -> str:
    """Replace a broken dvc.lock by git's version; remove any other broken file."""
    path.unlink()
    restore = ["git", "checkout", "--quiet", "--", path]
    restored = path == LOCK and subprocess.run(restore, stderr=subprocess.DEVNULL).returncode == 0
    return "git's version restored" if restored else "removed"


def check_bytes() -> Iterator[Problem]:
    """Compare every output, and every object of DVC's cache, with its hash; missing files are left to DVC."""
    with Repo() as repo:
        for output in repo.index.outs:
            stored = output.get_obj() if output.use_cache else None
            files = [] if stored is None else stored if stored.hash_info.isdir else [((), None, stored.hash_info)]
            for key, _, expected in files:
                path = Path(output.fs_path, *key)
                if path.is_file() and file_md5(path) != expected.value:
                    shown = path.relative_to(repo.root_dir)
                    yield f"{shown}: its bytes are not those of {LOCK}", partial(touch, path)
        objects = repo.cache.local
        for name in tqdm(sorted(objects.all()), desc="cache", unit="object", leave=False, disable=None):
            if file_md5(Path(objects.oid_to_path(name))) != name.removesuffix(".dir"):
                yield f"object {name} of the cache is damaged", partial(remove, objects, name)


def touch(path: Path) -> str:
    """Change the time of a file, so that DVC reads it again."""
    path.touch()
    return "`dvc checkout`, `dvc pull` or `dvc repro` restores it"


def remove(objects: Any, name: str) -> str:
    """Remove an object from DVC's cache."""
    objects.delete(name)
    return "removed; `dvc pull` or `dvc repro` restores it"


def file_md5(path: Path) -> str:
    """MD5 of a file, as DVC's cache names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
