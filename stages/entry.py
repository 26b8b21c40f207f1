"""What every stage starts with: where things are, checked settings, and errors as messages.

`python -m stages.entry` checks params.yaml and does nothing else.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from qc.errors import QcError, explain, print_anything
from qc.launch import read_launch
from qc.schema import read
from qc.settings import Settings
from qc.sources import Sources
from stages import end_at_once

PARAMS = Path("params.yaml")
SOURCES = Path("data/sources.yaml")
OWN = Path("data/own")
RAW = Path("data/raw")
FILES = RAW / "files.json"
ENCODERS = Path("data/encoders")
TOKENIZED = Path("data/tokenized")
QUESTIONS, LABELS = TOKENIZED / "questions.parquet", TOKENIZED / "labels.json"
INPUT_IDS, VOCABULARY = "input_ids.parquet", "vocabulary.json"  # in a folder of TOKENIZED for each encoder
SPLIT = Path("data/split")
MODELS = Path("models")
METRICS = Path("metrics")
PLOTS = Path("plots")
STATES = Path(".state")
LIVE = Path("dvclive")

STOPPING = (signal.SIGINT, signal.SIGTERM)


def load_settings() -> Settings:
    """Read and check params.yaml, all of it, so that a bad value anywhere is refused before anything runs."""
    return read(Settings, PARAMS, str(PARAMS))


def load_sources() -> Sources:
    """Read and check data/sources.yaml."""
    return read(Sources, SOURCES, str(SOURCES))


def run(main: Callable[[Settings], None]) -> None:
    """Run a stage: settings in, one message and status 1 for an error that the user can put right.

    Ctrl-C and SIGTERM unwind the stage, so that nothing half-written stays, then end it as `end_at_once` does; a second
    one does so at once.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        for each in STOPPING:
            signal.signal(each, end_at_once)
        raise KeyboardInterrupt

    def unwind_again(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        # A signal that falls into a finalizer: Python drops what is raised there, so raise it once more, outside.
        if stopped and unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        else:
            sys.__unraisablehook__(unraisable)

    stopped: list[int] = []
    sys.unraisablehook = dropped
    signal.signal(signal.SIGALRM, unwind_again)
    for number in STOPPING:
        signal.signal(number, unwind)
    print_anything()
    try:
        main(load_settings())
    except BaseException as error:
        told = explain(error) if isinstance(error, QcError) or not stopped else None
        if told:
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)  # it ends, and with this error
            sys.exit(f"error{_process()}: {told}")
        if not stopped:
            raise
    if stopped:
        end_at_once(stopped[0], None)


def _process() -> str:
    """Which of several processes this is, for messages; nothing for a single one."""
    try:
        launch = read_launch()
    except QcError:  # which is what is being told
        return ""
    return f" (process {launch.rank})" if launch.world_size > 1 else ""


def check(settings: Settings) -> None:
    """Refuse what this machine lacks, before DVC removes the outputs of a stage that could not start."""
    program = next((word for word in settings.launcher.split() if "=" not in word), "")  # not NAME=value before it
    if shutil.which(program) is None:
        raise QcError(
            f"{PARAMS}: launcher: {settings.launcher!r} is not possible, there is no {program} here; allowed: python, "
            "torchrun ..., accelerate launch ..., or another command that is here"
        )
    if subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode:
        raise QcError(
            "this folder is no git repository, or git does not trust it (git status tells), and DVC needs one; get the "
            "project by `git clone`, or make a repository of this copy: git init && git add --all && git commit"
        )
    print(f"{PARAMS}: checked")


if __name__ == "__main__":
    run(check)
