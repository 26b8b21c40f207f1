"""What is written takes the place of what was there, whole, or leaves it."""

import os
from pathlib import Path

import pytest

from qc.errors import QcError
from qc.files import new_file, new_folder, read_json, write_json


def test_others_may_read_what_is_written_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with new_file(tmp_path / "file") as file:
            file.write_text("new")
        with new_folder(tmp_path / "folder") as folder:
            (folder / "link").symlink_to("nowhere")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")] == [0o644, 0o755]


def test_a_folder_replaces_a_link_and_what_the_link_leads_to_stays(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/kept").touch()
    (tmp_path / "output").symlink_to("shared")
    for _ in range(2):
        with new_folder(tmp_path / "output") as folder:
            (folder / "new").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "output", "output/new", "shared", "shared/kept",
    ]  # fmt: skip


def test_a_folder_comes_back_if_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    """The disk fails between the two renames."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output/old").touch()
    rename = Path.rename

    def failing(path, target):
        if path.name.endswith(".tmp"):
            raise OSError("the disk fails")
        return rename(path, target)

    with pytest.raises(QcError, match="the disk fails; what was there stays"), new_folder(tmp_path / "output"):
        monkeypatch.setattr(Path, "rename", failing)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["output", "output/old"]


@pytest.mark.parametrize("write", [new_file, new_folder])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, write):
    (tmp_path / "output").write_text("old")
    told = r"output: cannot be written: .*; what was there stays"
    with pytest.raises(QcError, match=told), write(tmp_path / "output") as temporary:
        (temporary if temporary.is_dir() else tmp_path / "no folder").joinpath("x" * 300).write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert (tmp_path / "output").read_text() == "old"


def test_numbers_are_written_with_six_digits(tmp_path):
    content = {"a": 2 / 3, "b": [1 / 3, {"c": (1e-6, 1e-7)}], "d": 12345678}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == {"a": 0.666667, "b": [0.333333, {"c": [1e-6, 0]}], "d": 12345678}
