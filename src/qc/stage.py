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
from qc.errors import QcError, escape_unprintable, explain
from qc.paths import PARAMS, SOURCES, Folders
from qc.runtime.launch import read_launch
from qc.runtime.startup import check_process, handle_signals, set_environment, set_portable_arithmetic
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
    set_environment()
    handle_signals()
    escape_unprintable()
    try:
        check_process()
        settings = load_settings()
        if settings.precision == "portable":
            set_portable_arithmetic()
        main(settings)
    except BaseException as error:
        message = explain(error)
        if _processes() > 1:
            _end_at_once(error, message)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _processes() -> int:
    """Number of processes of this run; 1 where the launcher's words are the error."""
    try:
        return read_launch().world_size
    except QcError:
        return 1


def _end_at_once(error: BaseException, message: str | None) -> NoReturn:
    """End one of several processes: print the error, leave the interpreter as it is.

    Ending as usual frees PyTorch's process group, which waits for a thread of its own. After another process died, that
    thread may itself wait for the interpreter that is ending, for ever (PyTorch 2.13).
    """
    if isinstance(error, SystemExit):  # by a signal, which has said so
        status = error.code
    else:
        status = 1
        words = "".join(traceback.format_exception(error)) if message is None else f"{message}\n"
        print(f"error (process {read_launch().rank}): {words}", end="", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)


def train(name: str) -> None:
    """Run the training stage of the model NAME."""

    def main(settings: Settings) -> None:
        from qc.training.run import run_training

        run_training(name, settings, Folders())

    run(main)
