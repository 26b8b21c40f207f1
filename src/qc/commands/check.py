"""Compare the metrics of the working tree with those of a git revision, by the rules under gate in params.yaml.

The rules are those of the base, so that a change cannot loosen its own gate. Metrics are compared on the questions that
both sides have.

Exit status: 0 no regression, 1 regression, 2 cannot compare.
"""

import os
import sqlite3
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo

from qc.commands.gate import compare, exit_status, limits, matches, read_metrics, summary, table
from qc.config.settings import GateConfig
from qc.errors import QcError, listed
from qc.files import write_errors
from qc.paths import METRICS, PARAMS, REPORTS
from qc.schema import Section, parse_yaml
from qc.stage import load_settings

VERDICTS = {0: "holds", 1: "regression", 2: "cannot compare"}  # by exit status
FILES = {  # scores and predictions of a split
    "valid": (REPORTS / "validation.json", METRICS / "validation_predictions.csv"),
    "test": (REPORTS / "test.json", METRICS / "predictions.csv"),
}
SCORED = ("data/", "models/")  # dependencies of `evaluate` that scores are of
SHALLOW = "; this clone is shallow: `git fetch --unshallow` fetches the rest (in a workflow: fetch-depth: 0)"


class GateOnly(Section, extra="ignore"):
    """params.yaml of another revision, of which the gate's rules alone must be valid."""

    gate: GateConfig


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--base", metavar="REV", help="any git revision; default: the merge base with main")
    parser.add_argument(
        "--split",
        choices=["valid", "test"],
        default="valid",
        help="whose scores; default: valid, since test questions that decide again and again are no test any more",
    )
    parser.add_argument(
        "--markdown", metavar="FILE", type=Path, help="append the table there too, as Markdown; what FILE holds stays"
    )


def run(arguments: Namespace) -> int:
    """Compare, print the table, append it as Markdown if asked; the exit status."""
    revision, split = arguments.base, arguments.split
    rules = load_settings().gate.rules
    refuse_stale_scores()
    commit, what = default_base() if revision is None else (find_commit(revision), revision)
    files = FILES[split]
    # Not read_text, which would change line ends.
    here = [path.read_bytes().decode(errors="replace") if path.exists() else None for path in files]
    there = [read_at(commit, path) for path in files]
    if revision is None and here == there and commit == find_commit("HEAD"):
        raise QcError(
            f"the base, {what}, is HEAD, and the {split} scores here are those of HEAD: nothing would be compared; to "
            "compare all the same: --base HEAD"
        )
    prefix = f"{commit[:9]}:"
    for path, before, after in zip(files, there, here, strict=True):
        if after is None:
            raise QcError(f"{path}: no such file; run `dvc repro` to create it")
        if before is None:
            raise QcError(f"{prefix}{path}: no such file; name another base: --base REV")
    base = read_metrics(*there, [f"{prefix}{path}" for path in files], "at the base")
    new = read_metrics(*here, [str(path) for path in files], "here")
    metrics = dict.fromkeys((*new.metrics, *base.metrics))
    for number, rule in enumerate(rules):
        if not any(matches(metric, rule.metric) for metric in metrics):
            names = ", ".join(".".join(metric) for metric in list(metrics)[:4])
            raise QcError(
                f"{PARAMS}: gate.rules.{number}.metric: {rule.metric!r} matches no metric of either side; expected one "
                f"such as {names}, ..."
            )

    warnings = []
    try:
        base_rules = parse_yaml(GateOnly, read_at(commit, PARAMS) or "", f"{prefix}{PARAMS}").gate.rules
        if base_rules != rules:
            warnings = [f"The rules under gate in {PARAMS} changed: those of the base decide."]
    except QcError:
        base_rules, warnings = rules, [f"{PARAMS} of the base has no valid section gate: the rules here decide."]
    findings, notes = compare(base_rules, base, new)
    notes.append(limits(base_rules))
    status = exit_status(findings)
    headline = f"metrics gate on {split}: {VERDICTS[status]}; base {commit[:9]} ({what})"
    print(table(findings, markdown=False), *notes, *warnings, summary(findings), headline, sep="\n", flush=True)
    if arguments.markdown is not None:
        lines = [f"\n### {headline}", summary(findings), table(findings, markdown=True), *notes]
        lines += [f"**{warning}**" for warning in warnings]
        with write_errors(arguments.markdown):
            arguments.markdown.parent.mkdir(parents=True, exist_ok=True)
            # Appended: a summary keeps what earlier steps wrote; links, pipes and devices stay what they are.
            with arguments.markdown.open("a", encoding="utf-8") as file:
                file.write("\n\n".join(lines) + "\n")
    return status


def refuse_stale_scores() -> None:
    """Refuse scores of other data or models than those that are here.

    Missing data is accepted: in a clone the committed scores are all there is. So is a disk on which DVC cannot write
    its lock.

    Raises:
        QcError: A file that `evaluate` scores was changed after it; or DVC cannot tell.
    """
    try:
        with Repo() as repo:
            status = repo.status(targets=["evaluate"])
    except (NotDvcRepoError, OSError, sqlite3.Error):
        return
    except DvcException as error:
        raise QcError(f"{error}; `qc doctor` says more") from None
    changed = [change.get("changed deps", {}) for change in status.get("evaluate", []) if isinstance(change, dict)]
    modified = [path for paths in changed for path, how in paths.items() if how == "modified"]
    if newer := [path for path in modified if path.startswith(SCORED)]:
        raise QcError(f"the scores in {REPORTS} are older than {listed(newer)}; run `dvc repro` to recreate them")


def find_commit(revision: str) -> str:
    """Resolve a revision to a commit, 40 hex digits.

    Raises:
        QcError: There is no such revision here, or this is no git repository.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        if _git("rev-parse", "--git-dir") is None:
            raise QcError(
                "this is no git repository, so there is no revision to compare with; get the project by `git clone`, "
                "or make a repository of this copy: git init && git add --all && git commit"
            )
        raise QcError(f"no revision {revision!r}{_shallow() or '; `git log --oneline --all` lists what is here'}")
    return commit.strip()


def default_base() -> tuple[str, str]:
    """Find the usual base of a comparison, the merge base of HEAD with main: its commit and its description.

    Raises:
        QcError: As for `find_commit`; or there is no main here, or no merge base with it.
    """
    find_commit("HEAD")
    for main in ("main", "origin/main"):
        if _git("rev-parse", "--verify", "--quiet", f"{main}^{{commit}}") is None:
            continue
        commit = _git("merge-base", main, "HEAD")
        if commit is None:
            raise QcError(f"no merge base with {main}{_shallow()}; or name one: --base REV")
        return commit.strip(), f"the merge base with {main}"
    raise QcError(
        f"no branch main is here to compare with{_shallow()}; a clone of one branch gets it by "
        "`git fetch origin main:main`; or name what to compare with: --base REV"
    )


def read_at(commit: str, path: Path) -> str | None:
    """Read a file at a commit, by its path below the working directory; None where it is missing."""
    return _git("show", f"{commit}:./{path.as_posix()}")


def _shallow() -> str:
    """Hint about a shallow clone; empty in another."""
    return SHALLOW if (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true" else ""


def _git(*arguments: str) -> str | None:
    """Output of a git command; None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if b"dubious ownership" in done.stderr:
        top = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / ".git").exists()), Path.cwd())
        raise QcError(
            f"git does not work in {top}, since another user owns it; if you trust what is in it: "
            f"git config --global --add safe.directory {top}"
        )
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None
