"""The epochs of a run while it runs, so that `dvc exp show`, `dvc plots` and the DVC extension for editors see them.

Notable:
- dvclive/train_NAME is there as long as the run is: what it found then stands in metrics/ and plots/
- git must not ignore the folder: DVC does not look into folders that it ignores
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from dvclive import Live

from qc.training import Epoch
from stages.entry import LIVE

DVC_YAML = "metrics: [metrics.json]\nplots:\n  - plots/metrics: {x: step}\n"


@contextmanager
def live_curve(stage: str) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """Give a function that shows a learning curve; what it was not shown of it before is logged."""
    logging.getLogger("dvclive").setLevel(logging.ERROR)  # it says of every run that it is none of its experiments
    folder = LIVE / stage
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
            LIVE.rmdir()
