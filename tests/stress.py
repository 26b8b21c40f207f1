"""A small pipeline killed, damaged and changed at random, with a look after each step; run by `python -m tests.stress`.

    python -m tests.stress                          200 kills, every damage, 30 minutes of changes, a million inputs
    python -m tests.stress --minutes 5 --kills 20   a shorter one

What is looked at: what DVC says is up to date are the bytes that a run from nothing makes of the same parameters, and
the next command is not kept from anything by what the one before left. The first fault ends a part. What came through
is counted in docs/reproducibility.md.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import psutil

from qc.evaluation.tables import write_block
from tests.conftest import ROOT, Project, outputs
from tests.faults import AS_OTHERS, DAMAGES, allow_writing, output_paths, refused_clearly

PAGE = Path("docs/reproducibility.md")
BEGIN, END = "<!-- written by `python -m tests.stress` -->", "<!-- end -->"
OUTPUTS = (
    "data/raw",
    "data/encoders",
    "data/tokenized",
    "data/split",
    "models",
    "metrics",
    "plots",
    "reports",
    "dvc.lock",
)
KILLS_A_RUN = 8
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

Outputs = dict[str, dict]


def made(folder: Path) -> Project:
    """A small project of its own, on which the pipeline ran once."""
    folder.mkdir()
    project = Project(folder)
    project.run("dvc", "repro")
    project.commit("first run")
    return project


def state(project: Project) -> Outputs:
    """Every output, and the lock file."""
    lock = (project.root / "dvc.lock").read_text() if (project.root / "dvc.lock").exists() else ""
    return {**outputs(project), "dvc.lock": {"text": lock}}


def assert_whole(project: Project, expected: Outputs, after: str) -> None:
    """The bytes are right, DVC says so too, and nothing else is left."""
    found = state(project)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    assert not different, f"after {after}: other bytes in {different}"
    assert "up to date" in project.run("dvc", "status"), after
    assert project.repro() == [], after
    left = [path for path in project.root.rglob("*") if re.search(r"\.(tmp|part|old)$", path.name)]
    assert not [path for path in left if ".dvc" not in path.parts and ".git" not in path.parts], (after, left)


def forget(project: Project, *names: str) -> None:
    """Remove outputs, but not what git has to say of them."""
    for name in names:
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    project.run("git", "checkout", "--quiet", "--", "*.gitignore")


def own_processes(project: Project) -> list[psutil.Process]:
    """All processes that run for the project, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("HOME") == project.env["HOME"]:
                found.append(process)
    return found


def kill(project: Project, rng: random.Random) -> int:
    """Kill one of the project's processes, or all of them; how many."""
    processes = own_processes(project)
    chosen = processes if rng.random() < 0.5 else rng.sample(processes, min(1, len(processes)))
    end(chosen)
    return len(chosen)


def end(processes: list[psutil.Process]) -> None:
    """Kill processes, so far as they are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_quiet(project: Project) -> None:
    """Wait until no process of the project runs any more: orphans of a killed one end by themselves."""
    begun = time.monotonic()
    while own_processes(project):
        assert time.monotonic() - begun < STUCK, own_processes(project)
        time.sleep(0.1)


def mend(project: Project, count: Counter) -> None:
    """What `make run` does before it calls DVC: put right what a killed one left half-written."""
    told = project.run("qc", "doctor", "--quick", "--fix")
    count["files that a killed DVC left half-written, and `qc doctor --fix` repaired"] += told.count(": broken, ")


def kill_repro(folder: Path, kills: int) -> Counter:
    """`dvc repro` from nothing, killed again and again, goes on to the bytes of an undisturbed run."""
    rng, project, count = random.Random(1), made(folder), Counter()
    begun = time.monotonic()
    project.run("dvc", "repro", "--force")
    seconds = time.monotonic() - begun
    expected = state(project)
    while count["kill -9 of `dvc repro`"] < kills:
        forget(project, *OUTPUTS, ".dvc/cache", ".dvc/tmp", ".state")
        for _ in range(KILLS_A_RUN):
            process = project.start(folder / "log", "dvc", "repro")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, seconds / 2))
            count["kill -9 of `dvc repro`"] += bool(kill(project, rng))
            process.wait()
            wait_until_quiet(project)
            told = (folder / "log").read_text()
            assert "Traceback" not in told, told
            mend(project, count)
        project.run("dvc", "repro")
        assert_whole(project, expected, "kills of dvc repro")
        count["runs of `dvc repro` that were killed and ended in the right bytes"] += 1
        tell("kill_repro", count)
    return count


def tasks(project: Project) -> dict[str, str]:
    """Status of the queue's tasks, by name of the experiment."""
    rows = re.findall(r"^[0-9a-f]{7} +(\S+) .* (\w+) *$", project.run("dvc", "queue", "status"), re.MULTILINE)
    return dict(rows)


def has_work(project: Project) -> bool:
    """Whether a task of the queue has not come to its end."""
    return not {"Queued", "Running"}.isdisjoint(tasks(project).values())


def kill_queue(folder: Path, kills: int) -> Counter:
    """A queue with two workers, killed again and again: every experiment ends in the metrics of an undisturbed one."""
    rng, project, count = random.Random(2), made(folder), Counter()
    wanted = {"longer": "train_scratch.epochs=3", "shorter": "train_distilbert.epochs=1"}
    for name, change in wanted.items():
        project.run("dvc", "exp", "run", "--temp", "--name", f"undisturbed-{name}", "--set-param", change)
    expected = {name: metrics(project, f"undisturbed-{name}") for name in wanted}
    while count["kill -9 in a queue of two workers"] < kills:
        shutil.rmtree(project.root / ".dvc/cache/runs", ignore_errors=True)  # or nothing would be left to run
        missing, left = set(wanted), KILLS_A_RUN
        while missing:
            for name in sorted(missing):
                project.run("dvc", "exp", "run", "--queue", "--name", name, "--set-param", wanted[name])
            project.start(folder / "log", "dvc", "queue", "start", "--jobs", "2").wait()  # workers keep a pipe open
            while left and has_work(project):
                time.sleep(rng.uniform(0, 5))
                if not own_processes(project):
                    break
                count["kill -9 in a queue of two workers"] += bool(kill(project, rng))
                mend(project, count)
                left -= 1
            if left == 0:
                wait_for_queue(project)
            # As the README says: what was killed is told so, then removed, and queued again.
            if running := [name for name, status in tasks(project).items() if status == "Running"]:
                wait_until_quiet_or_kill(project)
                mend(project, count)
                project.run("dvc", "queue", "kill", *running)
            project.run("dvc", "queue", "remove", "--all")
            missing = {name for name in missing if name not in project.run("dvc", "exp", "list", "--name-only").split()}
        for name in wanted:
            assert metrics(project, name) == expected[name], name
        project.run("dvc", "exp", "remove", *wanted)
        assert project.run("git", "status", "--porcelain") == ""
        assert project.repro() == []
        count["queues that were killed and ended in the right metrics"] += 1
        tell("kill_queue", count)
    return count


def wait_for_queue(project: Project) -> None:
    """Wait until the queue has nothing to do, or nobody to do it."""
    begun = time.monotonic()
    while own_processes(project) and has_work(project):
        assert time.monotonic() - begun < STUCK, tasks(project)
        time.sleep(0.5)


def wait_until_quiet_or_kill(project: Project) -> None:
    """Have no worker left that could still be at what is about to be called killed."""
    wait_for_queue(project)
    end(own_processes(project))
    wait_until_quiet(project)


def metrics(project: Project, experiment: str) -> dict[str, str]:
    """The metric files of an experiment, as they are committed."""
    files = ("metrics/evaluate.json", "metrics/predictions.csv", "metrics/train_scratch.json", "dvc.lock")
    return {file: project.run("git", "show", f"refs/exps/{found(project, experiment)}:{file}") for file in files}


def found(project: Project, experiment: str) -> str:
    """The reference of an experiment, below refs/exps."""
    references = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return next(name.removeprefix("refs/exps/") for name in references if name.endswith(f"/{experiment}"))


def damage_all(folder: Path) -> Counter:
    """Every output of every stage, damaged in every way."""
    project, count = made(folder), Counter()
    expected = state(project)
    for name, damage in DAMAGES.items():
        for path in [path for paths in output_paths(project).values() for path in paths]:
            damage(path)
            if damage is DAMAGES["read-only"]:
                told = project.run(*AS_OTHERS, "dvc", "repro", status=255)
                assert refused_clearly(told) and "Permission denied" in told, told
                allow_writing(project)
            project.run("dvc", "repro")
            assert_whole(project, expected, f"{name}: {path.relative_to(project.root)}")
            count[f"outputs {name}, and brought back"] += 1
        tell("damage_all", count)
    return count


def walk(folder: Path, minutes: float) -> Counter:
    """Parameters, runs, experiments, kills, damage and commits at random; then the bytes are those from nothing."""
    rng, project, count = random.Random(3), made(folder), Counter()
    known: dict[str, Outputs] = {}

    def settled() -> None:
        """The pipeline is brought up to date, and compared with a run from nothing."""
        project.run("dvc", "repro")
        key = project.params.read_text()
        if key not in known:
            known[key] = from_nothing(project, folder / "nothing")
            count["runs from nothing to compare with"] += 1
        assert_whole(project, known[key], steps[-1])
        count["states compared with a run from nothing"] += 1

    def change() -> None:
        key = rng.choice(list(CHOICES))
        project.set(key, rng.choice(CHOICES[key]))

    def run_and_kill() -> None:
        project.set("train_prefix.epochs", rng.choice((1, 2)))
        process = project.start(folder / "log", "dvc", "repro")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 12))
        kill(project, rng)
        process.wait()
        wait_until_quiet(project)
        mend(project, count)
        assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()

    def damage() -> None:
        paths = [path for paths in output_paths(project).values() for path in paths if path.exists()]
        if paths:
            rng.choice([each for name, each in DAMAGES.items() if name != "read-only"])(rng.choice(paths))

    def experiment() -> None:
        key = rng.choice(list(CHOICES))
        where = rng.choice(([], ["--temp"]))
        project.run("dvc", "exp", "run", *where, "--set-param", f"{key}={rng.choice(CHOICES[key])}")

    def commit() -> None:
        project.run("dvc", "repro")
        project.run("git", "add", "--all")
        project.run("git", "commit", "--quiet", "--allow-empty", "--message", "a step")

    def go_back() -> None:
        commits = project.run("git", "rev-list", "HEAD").split()
        project.run("git", "checkout", "--quiet", "--force", rng.choice(commits), "--", ".")
        project.run("dvc", "checkout", "--force", "--allow-missing")

    def collect() -> None:
        project.run("dvc", "gc", "--workspace", "--force")

    actions: dict[str, Callable[[], None]] = {
        "changed parameters": change, "killed runs": run_and_kill, "damaged outputs": damage,
        "experiments": experiment, "commits": commit, "goings back": go_back, "collections of garbage": collect,
    }  # fmt: skip
    steps: list[str] = ["start"]
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name in rng.choices(list(actions), weights=[4, 2, 2, 2, 1, 1, 1], k=rng.randint(1, 3)):
            steps.append(name)
            actions[name]()
            count[name] += 1
        settled()
        tell("walk", count)
    return count


def from_nothing(project: Project, folder: Path) -> Outputs:
    """What a run without any cache makes of the project's code and parameters."""
    shutil.rmtree(folder, ignore_errors=True)
    fresh = project.clone(folder)
    fresh.params.write_bytes(project.params.read_bytes())
    forget(fresh, *OUTPUTS)
    fresh.run("dvc", "repro")
    return state(fresh)


def fuzz(runs: int) -> Counter:
    """The parser under atheris."""
    command = ["make", "--no-print-directory", "fuzz", f"RUNS={runs}"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stdout
    read, refused = re.findall(r"([\d,]+) read, ([\d,]+) refused", done.stdout)[-1]
    return Counter({"inputs that the parser read": number(read), "inputs that it refused by name": number(refused)})


def number(text: str) -> int:
    """1,234 as a number."""
    return int(text.replace(",", ""))


def tell(part: str, count: Counter) -> None:
    """Say how far a part is."""
    print(f"{part}: {json.dumps(count)}", flush=True)


def parts(folder: Path, asked: argparse.Namespace) -> Iterator[tuple[Callable[..., Counter], tuple]]:
    """What there is to do, the longest first."""
    yield walk, (folder / "walk", asked.minutes)
    yield kill_repro, (folder / "repro", asked.kills // 2)
    yield kill_queue, (folder / "queue", asked.kills - asked.kills // 2)
    yield damage_all, (folder / "damage",)
    yield fuzz, (asked.inputs,)


def main() -> None:
    """Do all of it, three parts at a time, and write down what was counted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="python -m tests.stress")
    parser.add_argument("--minutes", type=float, default=30, help="of random changes")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for the parser")
    asked = parser.parse_args()
    begun, count, faults = time.monotonic(), Counter(), 0
    with tempfile.TemporaryDirectory(prefix="qc-stress-") as folder, ProcessPoolExecutor(3) as pool:
        started = {pool.submit(part, *given): part for part, given in parts(Path(folder), asked)}
        for future in as_completed(started):
            if error := future.exception():
                faults += 1
                traceback.print_exception(error)
            else:
                count += future.result()
            print(f"{started[future].__name__}: {'a fault' if error else 'done'}", flush=True)
    if faults:
        sys.exit(f"error: {faults} of {len(started)} parts met a fault, see above; {PAGE} stays as it was")
    command = f"python -m tests.stress --minutes {asked.minutes:g} --kills {asked.kills} --inputs {asked.inputs}"
    rows = [f"| {name} | {times:,} |" for name, times in sorted(count.items())]
    table = "\n".join([f"| `{command}` | |", "|---|--:|", *rows])
    write_block(PAGE, BEGIN, END, f"{table}\n\nNo fault, in {(time.monotonic() - begun) / 60:.0f} minutes.")


if __name__ == "__main__":
    sys.exit(main())
