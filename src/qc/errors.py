"""What is meant for the person at the keyboard: errors that they can put right, in words.

Notable:
- our own say what, where and how; those of the system (a full disk, no memory) are put in such words by `explain`
- what `explain` has no words for is a fault of ours, and keeps its traceback
"""

import errno
import io
import os
import resource
import sys
from pathlib import Path

LESS_MEMORY = (
    "a smaller batch_size, max_length or cache_memory in params.yaml takes less, and so do fewer threads; or allow more"
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on a disk, for a user, in a file
OUT_OF_MEMORY = (  # what libraries say in a RuntimeError, for want of a type
    "out of memory",
    "can't allocate memory",
    "can't start new thread",
    "could not create a memory object",
    "could not create a primitive",
)


class QcError(Exception):
    """Something the user can put right; the message says what, where and how.

    Stages print it as one message, without a traceback, and exit with status 1.
    """


def reason(error: OSError) -> str:
    """Why an operation of the system failed, in its own words: `No space left on device`."""
    return os.strerror(error.errno) if error.errno else str(error)


def from_the_top() -> str:
    """Where to run a command that was run in a folder of the repository; nothing at its top, or outside one."""
    here = Path.cwd()
    top = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)
    return "" if top == here else f"; run this from the top of the repository: cd {top}"


def explain(error: BaseException) -> str | None:
    """What to tell of an error that the user can put right; None of any other."""
    if isinstance(error, QcError):
        return f"{error}{_limit()}"
    words = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in words for each in OUT_OF_MEMORY)
    ):
        return f"not enough memory{words and f': {words}'}; {LESS_MEMORY}{_limit()}"
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{reason(error)}; what is whole stays; put it right, and run the same command again{_limit()}"
    return None


def address_space() -> int | None:
    """The bytes of memory that the shell allows a process (`ulimit -v`); None where it sets no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _limit() -> str:
    """A word on a limit that libraries may have met, and told in their own way."""
    limit = address_space()
    return "" if limit is None else f"\nnote: `ulimit -v` allows {limit >> 20:,} MiB of memory here"


def print_anything() -> None:
    """Have characters that the locale does not know printed as escapes, where they would be an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python has it for standard error
