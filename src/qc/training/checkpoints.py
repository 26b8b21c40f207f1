"""Checkpoints of a training run on disk, so that a killed run resumes from its last whole epoch.

    .state/STAGE/lock                           held while the stage trains here
    .state/STAGE/KEY/epoch-0004.safetensors     weights, AdamW's moments, the curve so far, the best epoch's weights

Notable:
- KEY is a hash of everything that decides the result, so no other run can resume from a checkpoint
- there is no random state to save: all randomness of an epoch comes from (seed, epoch)
- writing is atomic; a broken file is set aside with a warning, and the one before it is used
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qc.errors import QcError
from qc.files import new_file, write_errors
from qc.inference.weights import write_weights
from qc.training.loop import WEIGHTS, Checkpoint, Epoch

OTHER_RUNS_KEPT = 2
FILES_KEPT = 2
METADATA = "checkpoint"  # key of the JSON in the metadata of a file
BEST = "best."  # prefix of the names of the best epoch's weights, where it is not the newest


class CheckpointFolder:
    """The checkpoints of one run of a stage.

    Args:
        stage: Folder of all runs of the stage, named after it.
        key: Everything that decides the result of this run, in types of JSON.
        warn: Called with a message about a broken file.
        interval: Seconds between two files at least; 0 saves every epoch.
    """

    def __init__(self, stage: Path, key: Mapping[str, Any], warn: Callable[[str], None], interval: float = 0.0) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.stage, self.folder, self.warn = stage, stage / digest[:16], warn
        self.interval, self.saved = interval, -math.inf

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the stage against other processes, and remove all but a few of its other runs.

        The system releases the lock however this process ends.

        Raises:
            QcError: Another process holds the lock, or it cannot be written.
        """
        path = self.stage / "lock"
        with write_errors(path):
            self.stage.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise QcError(f"{self.stage.name} is running here already, as {lock.read()}; wait, or end it") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()}")
            lock.flush()
            others = [path for path in self.stage.iterdir() if path.is_dir() and path != self.folder]
            for path in sorted(others, key=lambda path: path.stat().st_mtime)[:-OTHER_RUNS_KEPT]:
                shutil.rmtree(path)
            yield

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint if it is time to, and remove old ones; QcError where it cannot be written."""
        if time.monotonic() - self.saved < self.interval:
            return
        newest = len(checkpoint.curve)
        tensors = dict(checkpoint.tensors)
        if checkpoint.best != newest:
            tensors |= {f"{BEST}{name}": weights for name, weights in checkpoint.best_weights.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts = {
            "curve": [asdict(epoch) for epoch in checkpoint.curve],
            "padding_shares": checkpoint.padding_shares,
            "best": checkpoint.best,
            "checksum": _checksum(tensors),
        }
        with new_file(self.folder / f"epoch-{newest:04d}.safetensors") as temporary:
            write_weights(temporary, tensors, {METADATA: json.dumps(facts)})
        self.saved = time.monotonic()
        for path in self._paths()[:-FILES_KEPT]:
            path.unlink()

    def load(self) -> Checkpoint | None:
        """Read the checkpoint of the last whole epoch; None where there is none. Broken files are set aside."""
        return next(filter(None, map(self._read, reversed(self._paths()))), None)

    def remove(self) -> None:
        """Remove the checkpoints of a finished run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.safetensors"))

    def _read(self, path: Path) -> Checkpoint | None:
        """Read a file; None where it was broken and is set aside."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()[METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if _checksum(tensors) != facts["checksum"]:
                raise ValueError("its checksum does not fit its content")
            curve = [Epoch(**row) for row in facts["curve"]]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            aside = path.with_name(f"{path.name}.broken")
            path.replace(aside)
            self.warn(f"{path} is broken and was set aside as {aside.name}: {error}")
            return None
        prefix = WEIGHTS if facts["best"] == len(curve) else BEST
        best = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        own = {name: tensor for name, tensor in tensors.items() if not name.startswith(BEST)}
        return Checkpoint(curve, facts["padding_shares"], own, facts["best"], best)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over all values: detects damage of the file at a gigabyte a second."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum
