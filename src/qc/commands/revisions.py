"""Files of a git revision, read with git."""

import os
import subprocess
from pathlib import Path

from qc.errors import QcError

SHALLOW = "; this clone is shallow: `git fetch --unshallow` brings the rest (in a workflow: fetch-depth: 0)"


def find_commit(revision: str) -> str:
    """Resolve a revision to a commit, 40 hex digits.

    Raises:
        QcError: There is no such revision here, or this is no git repository.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found is None:
        if _git("rev-parse", "--git-dir") is None:
            raise QcError(
                "this is no git repository, so there is no revision to compare with; get the project by `git clone`, "
                "or make a repository of this copy: git init && git add --all && git commit"
            )
        shallow = SHALLOW if _is_shallow() else "; `git log --oneline --all` lists what is here"
        raise QcError(f"no revision {revision!r}{shallow}")
    return found.strip()


def default_base() -> tuple[str, str]:
    """Find the usual base of a comparison: the merge base of HEAD with main.

    Returns:
        The commit, and its description.

    Raises:
        QcError: As for `find_commit`; or there is no main here, or no merge base with it.
    """
    find_commit("HEAD")
    for main in ("main", "origin/main"):
        if _git("rev-parse", "--verify", "--quiet", f"{main}^{{commit}}") is None:
            continue
        found = _git("merge-base", main, "HEAD")
        if found is not None:
            return found.strip(), f"the merge base with {main}"
        raise QcError(f"no merge base with {main}{SHALLOW if _is_shallow() else ''}; or name one: --base REV")
    raise QcError(
        f"no branch main is here to compare with{SHALLOW if _is_shallow() else ''}; a clone of one branch gets it by "
        "`git fetch origin main:main`; or name what to compare with: --base REV"
    )


def read_at(commit: str, path: Path) -> str | None:
    """Read a file at a commit, by its path below the working directory; None where it is missing."""
    return _git("show", f"{commit}:./{path.as_posix()}")


def _is_shallow() -> bool:
    return (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true"


def _git(*arguments: str) -> str | None:
    """Output of a git command; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise QcError("git not found; install it (Debian: apt-get install git)") from None
    if b"dubious ownership" in done.stderr:
        top = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".git").exists()), Path.cwd())
        raise QcError(
            f"git does not work in {top}, since another user owns it; if you trust what is in it: "
            f"git config --global --add safe.directory {top}"
        )
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None
