"""DVC experiments run by our own scripts, each in a folder of its own: the workspace stays as it is."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any

from dvc.api import metrics_show

from qc.errors import QcError
from stages.entry import METRICS


def run_experiment(name: str, params: Mapping[str, Any], *targets: str) -> None:
    """Run an experiment; one of the same name goes first.

    Args:
        name: Its name.
        params: Values by dotted key of params.yaml.
        targets: The stages to bring up to date, with all that they need; none for the whole pipeline.

    Raises:
        QcError: A stage failed.
    """
    if name in _dvc("list", "--name-only", stdout=subprocess.PIPE).split():
        _dvc("remove", name)
    changes = [f"--set-param={key}={value}" for key, value in params.items()]
    _dvc("run", "--temp", "--name", name, *changes, *targets)


def read_metrics(file: str, experiment: str) -> dict[str, Any]:
    """A file of metrics/ as an experiment left it."""
    return metrics_show(str(METRICS / file), rev=experiment)


def _dvc(*arguments: str, stdout: int | None = None) -> str | None:
    """Run `dvc exp`; what it printed, if that goes to a pipe.

    It runs in a session of its own: what ends us ends it and the stage that it is at, as Ctrl-C does in a shell.
    """
    command = ["dvc", "exp", *arguments]
    print(" ".join(command), flush=True)
    with subprocess.Popen(command, text=True, stdout=stdout, start_new_session=True) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            raise
    if process.returncode:
        raise QcError(f"`{' '.join(command)}` failed, see above")
    return printed
