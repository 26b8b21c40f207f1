"""Errors that the user can correct, and their messages.

Notable:
- a `QcError` says what is wrong, where, and the remedy; `explain` does so for errors of the system, such as a full disk
- any other error is a fault of this project, and keeps its traceback
"""

import errno
import io
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

LESS_MEMORY = (
    "a smaller batch_size, max_length or cache_memory in params.yaml takes less, and so do fewer threads; or allow more"
)
LONGEST_SHOWN = 200  # characters of a file's content in a message
MOST_LISTED = 20  # names in a message
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a user, a file
OUT_OF_MEMORY = (  # in the text of a RuntimeError, which has no type for it
    "out of memory",
    "can't allocate memory",
    "can't start new thread",
    "could not create a memory object",
    "could not create a primitive",
)


class QcError(Exception):
    """An error that the user can correct; the message says what is wrong, where, and the remedy.

    It is printed without a traceback; a stage then exits with status 1, `qc` with 2.
    """


def reason(error: OSError) -> str:
    """The reason of an OSError, such as `No space left on device`."""
    return os.strerror(error.errno) if error.errno else str(error)


def from_the_top() -> str:
    """Hint for a command that was run in a subfolder of the repository; empty at its top, or outside one."""
    here = Path.cwd()
    top = next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)
    return "" if top == here else f"; run this from the top of the repository: cd {top}"


def explain(error: BaseException) -> str | None:
    """Message of an error that the user can correct; None for any other error."""
    if isinstance(error, QcError):
        return f"{error}{_limit()}"
    words = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(cause in words for cause in OUT_OF_MEMORY)
    ):
        return f"not enough memory{words and f': {words}'}; {LESS_MEMORY}{_limit()}"
    if isinstance(error, FileNotFoundError) and error.filename == "git":
        return "git not found; install it (Debian: apt-get install git)"
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{reason(error)}; correct this, and run the same command again{_limit()}"
    return None


def address_space() -> int | None:
    """Bytes of memory that `ulimit -v` allows; None for no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _limit() -> str:
    """Note about `ulimit -v`, whose effect libraries report in their own words."""
    limit = address_space()
    return "" if limit is None else f"\nnote: `ulimit -v` allows {limit >> 20:,} MiB of memory here"


def escape_unprintable() -> None:
    """Print characters that the locale does not know as escapes, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python has it for standard error


def listed(names: Sequence[str]) -> str:
    """List names in a message, the first `MOST_LISTED` of them."""
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def printable(text: str) -> str:
    """Make text of a file fit to print: one line, cut at `LONGEST_SHOWN` characters."""
    text = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
