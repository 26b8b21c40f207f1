"""A run is seen while it runs, and its outputs do not tell of that."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager

import pytest

from tests.conftest import outputs

LIVE = "dvclive/train_scratch"
TRAINING = (sys.executable, "-m", "stages.train_scratch")


@pytest.fixture
def running(restored, tmp_path):
    """A stage with very many epochs, some of which are over."""
    restored.set("train_scratch.epochs", 100_000)
    restored.set("train_scratch.patience", 100_000)
    process = restored.start(tmp_path / "log", *TRAINING)
    metrics = restored.root / LIVE / "metrics.json"
    wait_until(process, lambda: metrics.is_file() and '"step": 3' in metrics.read_text())
    yield process
    process.kill()
    process.wait()


def wait_until(process, reached):
    """Wait until a running process has come so far."""
    while not reached():
        assert process.poll() is None
        time.sleep(0.05)


def pause(process, path):
    """Stop a process where the file that it writes again and again is whole."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            return json.loads(path.read_text())
        except ValueError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)


def test_dvc_shows_a_run_while_it_runs_and_nothing_of_it_after(running, restored):
    expected = pause(running, restored.root / LIVE / "metrics.json")
    shown = json.loads(restored.run("dvc", "exp", "show", "--json"))
    workspace = next(row for row in shown if row["rev"] == "workspace")
    live = workspace["data"]["metrics"][f"{LIVE}/metrics.json"]["data"]
    assert live == expected
    assert live.keys() == {"step", "learning_rate", "train_loss", "valid_loss", "valid_accuracy", "valid_macro_f1"}
    restored.run("dvc", "plots", "show", "--out", "dvc_plots")
    page = (restored.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert f"{LIVE}/plots/metrics" in page
    running.send_signal(signal.SIGCONT)
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 128 + signal.SIGTERM
    assert not (restored.root / LIVE).exists()
    assert restored.run("git", "status", "--porcelain") == " M params.yaml\n"


def test_a_run_that_goes_on_shows_its_earlier_epochs_too(running, restored, tmp_path):
    left = pause(running, restored.root / LIVE / "metrics.json")["step"]
    running.kill()
    running.wait()
    curve, log = restored.root / LIVE / "plots/metrics/valid_accuracy.tsv", tmp_path / "second"
    process = restored.start(log, *TRAINING)
    try:
        wait_until(process, lambda: "resuming train_scratch from epoch" in log.read_text())
        wait_until(process, lambda: curve.is_file() and len(curve.read_text().splitlines()) > left + 2)
    finally:
        process.kill()
        process.wait()
    steps = [int(line.split("\t")[0]) for line in curve.read_text().splitlines()[1:]]
    assert steps == list(range(1, len(steps) + 1))


def test_a_finished_run_leaves_only_its_outputs(finished):
    assert not (finished.root / "dvclive").exists() or not any((finished.root / "dvclive").iterdir())
    assert not any("dvclive" in name for name in outputs(finished))


@contextmanager
def at_a_terminal(project, *command):
    """Run a command whose output a terminal shows; gives the process and a function that reads until words are seen."""
    screen, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 160))
    streams = {"stdin": subprocess.DEVNULL, "stdout": end, "stderr": end}
    process = subprocess.Popen(command, cwd=project.root, env=project.env, start_new_session=True, **streams)
    os.close(end)
    shown = ""

    def read_until(words):
        nonlocal shown
        while words not in shown:
            try:
                shown += os.read(screen, 2**16).decode()
            except OSError:  # the process has ended
                break
        return shown

    try:
        yield process, read_until
    finally:
        process.kill()
        process.wait()
        os.close(screen)


@pytest.mark.parametrize(
    ("command", "far"),
    [
        ("labels --models scratch --folds 2", "scratch, fold 1 of 2:   0%"),
        ("cross-validate scratch --folds 2", "scratch, fold 1 of 2:   0%"),
        ("sweep scratch --trials 3", "0/3 ["),
    ],
)
def test_long_work_says_how_far_it_is_and_ctrl_c_ends_it_in_one_line(restored, command, far):
    restored.set("train_scratch.epochs", 100_000)
    restored.set("train_scratch.patience", 100_000)
    before = outputs(restored)
    with at_a_terminal(restored, sys.executable, "-m", "qc", *command.split()) as (process, read_until):
        assert far in read_until(far)
        assert "epoch 1:" in read_until("epoch 1:")
        process.send_signal(signal.SIGINT)
        said = read_until("\0")  # all
        assert process.wait() == 128 + signal.SIGINT
    assert said.count("stopped by SIGINT") == 1
    assert "Traceback" not in said
    assert outputs(restored) == before
