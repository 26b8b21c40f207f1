"""Ways to damage what a stage wrote, and what holds afterwards; the suite takes a few, `python -m tests.stress` all."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.project import Project

# Root may write anything: what tests of permissions run goes without that power.
AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def output_paths(project: Project) -> dict[str, list[Path]]:
    """Every output of every stage, by stage, as dvc.lock names them."""
    stages = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    return {name: [project.root / out["path"] for out in stage["outs"]] for name, stage in stages.items()}


def files(path: Path) -> list[Path]:
    """The file, or the files of a folder."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def delete(path: Path) -> None:
    """Remove a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(path: Path) -> None:
    """Cut each file in half."""
    for file in files(path):
        os.truncate(file, file.stat().st_size // 2)


def flip(path: Path) -> None:
    """Turn over a bit in the middle of each file."""
    for file in files(path):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)


def make_folder(path: Path) -> None:
    """Put a folder in the place of a file, or another folder in the place of one."""
    delete(path)
    (path / "x").mkdir(parents=True)


def forbid_writing(path: Path) -> None:
    """Damage it and let nobody write it, nor the folder it is in."""
    flip(path)
    for each in (*files(path), *(path.rglob("*") if path.is_dir() else ()), path, path.parent):
        each.chmod(0o555 if each.is_dir() else 0o444)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": delete,
    "truncated": truncate,
    "bit flipped": flip,
    "replaced by a folder": make_folder,
    "read-only": forbid_writing,
}


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full: the system refuses to let a file grow past `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def allow_writing(project: Project) -> None:
    """Undo `forbid_writing`."""
    subprocess.run(
        ["chmod", "-R", "u+w", "data", "models", "metrics", "plots", "reports"], cwd=project.root, check=True
    )


def refused_clearly(output: str) -> bool:
    """Whether a failed run told why, and nothing like a fault of ours."""
    return "Traceback" not in output and ("error: " in output or "ERROR: " in output)
