"""Live metrics of a running stage, for `dvc exp show`, `dvc plots` and the DVC extension for editors.

The files are those that DVCLive writes: metrics.json with the last values, plots/metrics/NAME.tsv with all of them. The
folder dvclive/train_NAME exists while the stage runs; the results are in metrics/ and plots/. Git must not ignore the
folder: DVC does not look into ignored folders.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from qc.training.loop import Epoch

DVC_YAML = "metrics: [metrics.json]\nplots:\n  - plots/metrics: {x: step}\n"


@contextmanager
def live_curve(folder: Path) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """Give a function that writes a learning curve to `folder`, which is removed at the end."""

    def show(curve: Sequence[Epoch]) -> None:
        rows = [asdict(epoch) for epoch in curve]
        for name in rows[0].keys() - {"epoch"}:
            lines = [f"step\t{name}", *(f"{row['epoch']}\t{row[name]}" for row in rows)]
            (folder / f"plots/metrics/{name}.tsv").write_text("\n".join(lines) + "\n")
        last = {"step" if name == "epoch" else name: value for name, value in rows[-1].items()}
        (folder / "metrics.json").write_text(json.dumps(last, indent=2))

    try:
        (folder / "plots/metrics").mkdir(parents=True, exist_ok=True)
        (folder / "dvc.yaml").write_text(DVC_YAML)
        yield show
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other stages may be running
            folder.parent.rmdir()
