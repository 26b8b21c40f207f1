"""Files that a killed DVC left half-written, put right; called by `make run`, not a stage.

DVC writes two of its files in place, so that a kill in that moment leaves them empty or cut short, and every later
command of DVC refuses to go on:

- .dvc/tmp/rwlock, which process uses which output: of no use once that process is gone, so it is removed
- dvc.lock: git's version takes its place, or none; what ran since then comes from DVC's run cache

A file that a process is writing, and a dvc.lock with a merge's conflict in it, are left alone.
"""

import contextlib
import json
import subprocess
from pathlib import Path

from dvc.lock import LockError, make_lock
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import ParseError, parse_yaml
from voluptuous import Invalid

IN_USE, RECORD = Path(".dvc/tmp/rwlock"), Path("dvc.lock")
GUARDS = {IN_USE: ".dvc/tmp/rwlock.lock", RECORD: ".dvc/tmp/lock"}  # whoever holds it may write the file
CONFLICT = "<<<<<<< "


def is_broken(path: Path) -> bool:
    """Whether one of the two is there, and DVC could not read it."""
    try:
        text = path.read_text(encoding="utf-8")
        if path == IN_USE:
            json.loads(text)
        elif CONFLICT not in text:
            COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, str(path)))
    except FileNotFoundError:
        return False
    except (ValueError, ParseError, Invalid):
        return True
    return False


def mend(path: Path) -> str:
    """Put a broken file right; what was done."""
    path.unlink()
    if path == RECORD:
        done = subprocess.run(["git", "checkout", "--quiet", "--", path], stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return "git's version put back"
    return "removed"


def main() -> None:
    """Look at both files."""
    for path, guard in GUARDS.items():
        if is_broken(path):
            Path(guard).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(LockError), make_lock(guard):
                if is_broken(path):
                    print(f"{path}: DVC was killed while it wrote this file; {mend(path)}")


if __name__ == "__main__":
    main()
