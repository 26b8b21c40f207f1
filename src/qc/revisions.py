"""Files as they stood at a git revision; read with git itself."""

import subprocess
from pathlib import Path

from qc.errors import QcError

SHALLOW = "; this clone is shallow: `git fetch --unshallow` brings the rest (in a workflow: fetch-depth: 0)"


def find_commit(revision: str) -> str:
    """The commit that a revision names, as 40 hex digits.

    Raises:
        QcError: There is none here, or this is no git repository.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found is None:
        if _git("rev-parse", "--git-dir") is None:
            raise QcError("this is no git repository, so there is no revision to compare with; clone it with git")
        shallow = SHALLOW if _is_shallow() else "; `git log --oneline --all` lists what is here"
        raise QcError(f"no revision {revision!r}{shallow}")
    return found.strip()


def default_base() -> tuple[str, str]:
    """What a change is usually held against: the merge base of HEAD with main, else HEAD.

    Returns:
        The commit; which one that is, in words.

    Raises:
        QcError: As for `find_commit`; or main is here, but the merge base with it beyond the end of a shallow clone.
    """
    head = find_commit("HEAD")
    for main in ("main", "origin/main"):
        if _git("rev-parse", "--verify", "--quiet", f"{main}^{{commit}}") is None:
            continue
        found = _git("merge-base", main, "HEAD")
        if found is not None:
            return found.strip(), f"the merge base with {main}"
        if _is_shallow():
            raise QcError(f"no merge base with {main}{SHALLOW}; or name what to compare with: --base REV")
    return head, "HEAD, since no main is here that shares its history"


def read_at(commit: str, path: Path) -> str | None:
    """A file's text at a commit, `path` being relative to the working directory; None where it was not there."""
    return _git("show", f"{commit}:./{path.as_posix()}")


def _is_shallow() -> bool:
    return (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true"


def _git(*arguments: str) -> str | None:
    """What a git command prints; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except FileNotFoundError:
        raise QcError("git not found; install it (Debian: apt-get install git)") from None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None
