"""How a stage starts: environment, signals, checked settings, and errors as messages.

The main function of a stage imports the libraries that take seconds to load: by then the environment that they read is
set, and Ctrl-C is handled.
"""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from qc.config.settings import Settings
from qc.config.sources import Sources
from qc.errors import escape_unprintable, explain
from qc.paths import PARAMS, SOURCES, Folders
from qc.runtime.launch import Launch, read_launch
from qc.runtime.startup import PORTABLE, check_process, handle_signals, set_environment
from qc.schema import read_yaml


def load_settings() -> Settings:
    """Read and check all of params.yaml, so that a bad value anywhere is refused before anything runs."""
    return read_yaml(Settings, PARAMS, str(PARAMS))


def load_sources() -> Sources:
    """Read and check data/sources.yaml."""
    return read_yaml(Sources, SOURCES, str(SOURCES))


def run(main: Callable[[Settings], None]) -> None:
    """Run a stage: set up the process, load the settings, call `main`.

    An error that the user can correct ends in one message and status 1.
    """
    launch = Launch()
    set_environment()
    handle_signals()
    escape_unprintable()
    try:
        launch = read_launch()
        check_process()
        settings = load_settings()
        if settings.precision == "portable":
            os.environ.update(PORTABLE)
        main(settings)
    except BaseException as error:
        message = explain(error)
        if launch.world_size > 1:
            _end_at_once(error, message, launch.rank)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _end_at_once(error: BaseException, message: str | None, rank: int) -> NoReturn:
    """End one of several processes: print the error, leave the interpreter as it is.

    Ending as usual frees PyTorch's process group, which waits for a thread of its own. After another process died, that
    thread may itself wait for the interpreter that is ending, for ever (PyTorch 2.13).
    """
    stopped = isinstance(error, SystemExit)  # by a signal, and its handler has said so
    if not stopped:
        words = message or "".join(traceback.format_exception(error)).rstrip()
        print(f"error (process {rank}): {words}", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(error.code if stopped else 1)


def train(name: str) -> None:
    """Run the training stage of the model NAME."""

    def main(settings: Settings) -> None:
        from qc.training.run import run_training

        run_training(name, settings, Folders())

    run(main)
