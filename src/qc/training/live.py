"""Live metrics of a running stage, for `dvc exp show`, `dvc plots` and the DVC extension for editors.

Notable:
- the folder dvclive/train_NAME exists while the stage runs; the results are in metrics/ and plots/
- git must not ignore the folder: DVC does not look into ignored folders
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from dvclive import Live

from qc.training.loop import Epoch

DVC_YAML = "metrics: [metrics.json]\nplots:\n  - plots/metrics: {x: step}\n"


@contextmanager
def live_curve(folder: Path) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """Give a function that logs the new epochs of a learning curve to `folder`."""
    logging.getLogger("dvclive").setLevel(logging.ERROR)  # it warns of every run outside its own experiments
    shown = 0

    def show(curve: Sequence[Epoch]) -> None:
        nonlocal shown
        for epoch in curve[shown:]:
            values = asdict(epoch)
            live.step = values.pop("epoch")
            for name, value in values.items():
                live.log_metric(name, value)
            live.next_step()
        shown = len(curve)

    try:
        live = Live(str(folder), dvcyaml=False, save_dvc_exp=False)
        (folder / "dvc.yaml").write_text(DVC_YAML)  # its own grows by the same lines every epoch
        yield show
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other stages may be running
            folder.parent.rmdir()
