"""The lock file that a killed DVC left unreadable, removed; called by `make run`, not a stage.

DVC notes in .dvc/tmp/rwlock which process uses which output, and writes it in place: where it was killed in that
moment, the file is empty or half there, and every later command of DVC refuses to go on. What it held is of no use any
more: only processes that run have a lock.
"""

import json
from pathlib import Path

from dvc.lock import make_lock

LOCKS = Path(".dvc/tmp/rwlock")
GUARD = Path(".dvc/tmp/rwlock.lock")  # whoever holds it may read and write the other


def unreadable() -> bool:
    """Whether there is a lock file that DVC cannot read."""
    try:
        json.loads(LOCKS.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def main() -> None:
    """Remove the lock file if nobody is writing it and it cannot be read."""
    if unreadable():
        with make_lock(str(GUARD)):
            if unreadable():
                LOCKS.unlink()
                print(f"{LOCKS}: DVC was killed while it wrote this file; removed")


if __name__ == "__main__":
    main()
