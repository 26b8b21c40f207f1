"""What is written takes the place of what was there, whole, or leaves it."""

import os

import pytest

from qc.errors import QcError
from qc.files import new_file, new_folder


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


@pytest.mark.parametrize("write", [new_file, new_folder])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path, write):
    (tmp_path / "output").write_text("old")
    told = r"output: cannot be written: .*; what was there stays"
    with pytest.raises(QcError, match=told), write(tmp_path / "output") as temporary:
        (temporary if temporary.is_dir() else tmp_path / "no folder").joinpath("x" * 300).write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    assert (tmp_path / "output").read_text() == "old"
