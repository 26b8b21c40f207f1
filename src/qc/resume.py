"""Whole states of a training run on disk, so that a run that was killed goes on where it stopped.

    .state/STAGE/lock                           held while the stage trains here
    .state/STAGE/KEY/epoch-0004.safetensors     weights, AdamW's moments, the curve so far

Notable:
- KEY is a hash of everything that decides the result, so a state is never taken up by another run
- there is no random state to save: all randomness of an epoch comes from (seed, epoch)
- a file is written beside its place, flushed to the disk and renamed; one that is broken nonetheless is set aside
- two files stay: the newest epoch's, and the best one's, whose weights the run may have to end with
"""

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qc.artifacts import new_file, writing
from qc.checkpoints import write_weights
from qc.errors import LESS_MEMORY, QcError
from qc.training import WEIGHTS, Epoch, State, best_epoch

OTHER_RUNS_KEPT = 2
FACTS = "state"
OWNER = "process "  # what a lock's file holds while somebody has the lock, with a number


class StateFolder:
    """The states of one run of a stage.

    Args:
        stage: The folder for the states of all runs of the stage, named after it.
        key: Everything that decides this run's result, as JSON holds it.
        warn: Told in a sentence of a file that is broken.
    """

    def __init__(self, stage: Path, key: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.stage, self.folder, self.warn = stage, stage / digest[:16], warn

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running the stage here, and forget all but a few of its other runs.

        The system gives the lock back however this process ends.

        Raises:
            QcError: Another process has it, or it cannot be written.
        """
        path = self.stage / "lock"
        with writing(path):
            self.stage.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise QcError(f"{self.stage.name} is running here already, as {lock.read()}; wait, or end it") from None
            lock.seek(0)
            if (left := lock.read()).startswith(OWNER):
                self.warn(
                    f"the last run of {self.stage.name}, {left}, was killed: by somebody, or by the system for want of "
                    f"memory (dmesg tells); {LESS_MEMORY}"
                )
            lock.truncate(0)
            lock.write(f"{OWNER}{os.getpid()}")
            lock.flush()
            others = [path for path in self.stage.iterdir() if path.is_dir() and path != self.folder]
            for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-OTHER_RUNS_KEPT]:
                shutil.rmtree(path)
            try:
                yield
            finally:
                lock.truncate(0)

    def save(self, state: State) -> None:
        """Write a state and remove those it makes superfluous; QcError where it can't be, and those stay."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        facts = {
            "curve": [asdict(epoch) for epoch in state.curve],
            "padding_shares": state.padding_shares,
            "checksum": _checksum(tensors),
        }
        newest, best = self._path(len(state.curve)), self._path(best_epoch(state.curve).epoch)
        with new_file(newest) as temporary:
            write_weights(temporary, tensors, {FACTS: json.dumps(facts)})
        for path in self._paths():
            if path not in (newest, best):
                path.unlink()

    def load(self) -> State | None:
        """The state of the last whole epoch; None where there is none. Broken files are set aside."""
        for path in reversed(self._paths()):
            state = self._read(path)
            if state is None:
                continue
            best = self._path(best_epoch(state.curve).epoch)
            best_state = state if best == path else self._read(best)
            if best_state is not None:
                return replace(state, best_weights=best_state.best_weights)
        return None

    def remove(self) -> None:
        """Forget the run: it is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.safetensors"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.safetensors"))

    def _read(self, path: Path) -> State | None:
        """A file's state, its own weights as the best; None for a file that is missing, or broken and set aside."""
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()[FACTS])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if _checksum(tensors) != facts["checksum"]:
                raise ValueError("its checksum does not fit its content")
            curve = [Epoch(**row) for row in facts["curve"]]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            aside = path.with_name(f"{path.name}.broken")
            path.replace(aside)
            self.warn(f"{path} is broken and was set aside as {aside.name}: {error}")
            return None
        weights = {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}
        return State(curve, facts["padding_shares"], tensors, weights)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over all values: finds what a disk or a power cut did to a file, at a gigabyte a second."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum
