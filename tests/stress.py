"""A small pipeline killed, damaged and changed at random, with a look after each step: `python -m tests.stress`.

    python -m tests.stress                 a walk of 30 minutes
    python -m tests.stress --seed 2        another, to run beside it
    python -m tests.stress --minutes 5     a shorter one

After each step the next command must not be kept from anything by what the one before left, and what DVC says is up to
date must be the bytes that a run from nothing makes of the same parameters. The first fault ends a walk. What came
through is counted in docs/reproducibility.md.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests import fork_server
from tests.faults import DAMAGES, output_paths
from tests.project import PROGRAMS, Project, outputs

OUTPUTS = [
    "data/raw", "data/encoders", "data/tokenized", "data/split", "models", "metrics", "plots", "reports", "dvc.lock",
]  # fmt: skip
REPAIRED = "files that a killed DVC left half-written, and `qc doctor --fix` repaired"
STUCK = 600  # seconds for anything that takes twenty
CHOICES = {
    "train_scratch.epochs": (1, 2),
    "train_scratch.hidden_size": (16, 8),
    "train_prefix.prefix_length": (2, 0),
    "train_distilbert.trainable_layers": (2, 1),
    "tokenize.lowercase": ("true", "false"),
    "split.seed": (1, 2),
    "seed": (1, 2),
}
ACTIONS = {  # how often each is chosen
    "changed parameters": 4, "killed runs": 4, "damaged outputs": 2, "experiments": 2, "commits": 1, "goings back": 1,
}  # fmt: skip


class Walk:
    """Random steps in a project of its own, on which the pipeline ran once."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir()
        self.folder, self.rng, self.count = folder, random.Random(seed), Counter()
        self.known: dict[str, dict] = {}  # what a run from nothing makes, by the text of params.yaml
        self.project = Project(folder)
        self.project.run("dvc", "repro")
        self.project.commit("first run")

    def walk(self, minutes: float) -> Counter:
        """Take steps and look at what they left until the time is over; what was counted."""
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            steps = self.rng.choices(list(ACTIONS), list(ACTIONS.values()), k=self.rng.randint(1, 3))
            for step in steps:
                getattr(self, step.replace(" ", "_"))()
                self.count[step] += 1
            self.project.run("dvc", "repro")
            self.assert_whole(steps)
            print(json.dumps(self.count), flush=True)
        return self.count

    def assert_whole(self, steps: list[str]) -> None:
        """The bytes are right, DVC says so too, and nothing else is left."""
        expected, state = self.from_nothing(self.project.params.read_text()), made(self.project)
        different = sorted(name for name in state.keys() | expected.keys() if state.get(name) != expected.get(name))
        assert not different, f"after {steps}: other bytes in {different}"
        assert "up to date" in self.project.run("dvc", "status"), steps
        assert self.project.repro() == [], steps
        left = [path for path in self.project.root.rglob("*") if re.search(r"\.(tmp|part|old)$", path.name)]
        assert not [path for path in left if not {".dvc", ".git"} & {*path.parts}], (steps, left)
        self.count["looks that found the bytes of a run from nothing"] += 1

    def from_nothing(self, params: str) -> dict:
        """What a run without any cache makes of the project's code and these parameters."""
        if params not in self.known:
            shutil.rmtree(self.folder / "nothing", ignore_errors=True)
            fresh = self.project.clone(self.folder / "nothing")
            fresh.params.write_text(params)
            forget(fresh)
            fresh.run("dvc", "repro")
            self.known[params] = made(fresh)
        return self.known[params]

    def changed_parameters(self) -> None:
        key = self.rng.choice(list(CHOICES))
        self.project.set(key, self.rng.choice(CHOICES[key]))

    def killed_runs(self) -> None:
        """Runs killed at any moment, one process of them or all; a third of them runs from nothing."""
        if self.rng.random() < 1 / 3:
            forget(self.project, ".dvc/cache", ".dvc/tmp", ".state")
        self.project.set("train_prefix.epochs", self.rng.choice((1, 2)))
        for _ in range(self.rng.randint(1, 4)):
            process = self.project.start(self.folder / "log", "dvc", "repro")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.rng.uniform(0, 12))
            self.kill()
            process.wait()
            self.wait_until_quiet()
            told = (self.folder / "log").read_text()
            assert "Traceback" not in told, told
            self.mend()
        self.project.run("dvc", "repro")

    def damaged_outputs(self) -> None:
        self.project.run("dvc", "repro")
        damages = [damage for name, damage in DAMAGES.items() if name != "read-only"]
        paths = [path for paths in output_paths(self.project).values() for path in paths]
        self.rng.choice(damages)(self.rng.choice(paths))

    def experiments(self) -> None:
        key = self.rng.choice(list(CHOICES))
        where = self.rng.choice(([], ["--temp"]))
        self.project.run("dvc", "exp", "run", *where, "--set-param", f"{key}={self.rng.choice(CHOICES[key])}")

    def commits(self) -> None:
        self.project.run("dvc", "repro")
        self.project.run("git", "add", "--all")
        self.project.run("git", "commit", "--quiet", "--allow-empty", "--message", "a step")

    def goings_back(self) -> None:
        commits = self.project.run("git", "rev-list", "HEAD").split()
        self.project.run("git", "checkout", "--quiet", "--force", self.rng.choice(commits), "--", ".")
        self.project.run("dvc", "checkout", "--force", "--allow-missing")

    def processes(self) -> list[psutil.Process]:
        """All processes that run for the project, whoever started them."""
        home, running = self.project.env["HOME"], []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("HOME") == home:
                    running.append(process)
        return running

    def kill(self) -> None:
        """Kill one of the project's processes, or all of them."""
        running = self.processes()
        chosen = running if self.rng.random() < 0.5 else self.rng.sample(running, min(1, len(running)))
        for process in chosen:
            end(process)
        self.count["kill -9 of some processes"] += bool(chosen)

    def wait_until_quiet(self) -> None:
        """Wait until no process of the project runs any more: orphans of a killed one end by themselves."""
        begun = time.monotonic()
        while self.processes():
            assert time.monotonic() - begun < STUCK, self.processes()
            time.sleep(0.1)

    def mend(self) -> None:
        """What `make run` does before it calls DVC: repair what a killed one left half-written."""
        self.count[REPAIRED] += self.project.run("qc", "doctor", "--quick", "--fix").count(": broken, ")


def made(project: Project) -> dict[str, dict]:
    """Every output, and the lock file."""
    return {**outputs(project), "dvc.lock": {"text": (project.root / "dvc.lock").read_text()}}


def forget(project: Project, *caches: str) -> None:
    """Remove every output and caches, but not what git has to say of them."""
    for name in (*OUTPUTS, *caches):
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    project.run("git", "checkout", "--quiet", "--", "*.gitignore")


def end(process: psutil.Process) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def main() -> None:
    """Walk, and print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress")
    parser.add_argument("--minutes", type=float, default=30, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="another one takes other steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qc-stress-") as name, fork_server.running(Path(name)) as programs:
        os.environ[PROGRAMS] = str(programs)
        count = Walk(Path(name) / "walk", options.seed).walk(options.minutes)
    rows = [f"| {name} | {times:,} |" for name, times in sorted(count.items())]
    print("\n".join([f"| `python -m tests.stress --minutes {options.minutes:g}` | |", "|---|--:|", *rows]))


if __name__ == "__main__":
    main()
