"""Outputs that were damaged: `dvc repro` ends in the right bytes, or says what is in its way.

One output of each stage here, all of them in `make soak`.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from dvc.lock import make_lock

from stages import unlock
from tests.conftest import outputs
from tests.faults import AS_OTHERS, DAMAGES, allow_writing, forbid_writing, output_paths, refused_clearly


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "read-only"])
def test_damaged_outputs_of_every_stage_come_back(restored, damage):
    before = outputs(restored)
    shift = list(DAMAGES).index(damage)
    for paths in output_paths(restored).values():
        DAMAGES[damage](paths[shift % len(paths)])
    assert outputs(restored) != before
    restored.repro()
    assert outputs(restored) == before
    assert restored.run("git", "status", "--porcelain") == ""


@pytest.mark.parametrize("stage", ["fetch", "tokenize", "train_scratch", "evaluate"])
def test_a_damaged_output_that_cannot_be_written_is_named_and_comes_back_when_it_can(restored, stage):
    before = outputs(restored)
    forbid_writing(path := output_paths(restored)[stage][0])
    try:
        told = restored.run(*AS_OTHERS, "dvc", "repro", status=255)
    finally:
        allow_writing(restored)
    assert refused_clearly(told)
    assert "Permission denied" in told
    assert str(path.relative_to(restored.root)) in told
    restored.repro()
    assert outputs(restored) == before


def test_two_runs_at_once_do_not_disturb_each_other(restored, tmp_path):
    before = outputs(restored)
    first = restored.start(tmp_path / "first", "dvc", "repro", "--force")
    while "Running stage 'tokenize'" not in (tmp_path / "first").read_text():
        assert first.poll() is None
    told = restored.run("dvc", "repro", "--force", status=255)
    assert refused_clearly(told)
    assert "busy, it is being blocked by" in told or "Unable to acquire lock" in told
    assert first.wait() == 0, (tmp_path / "first").read_text()
    assert outputs(restored) == before
    assert restored.repro() == []


def test_a_lock_file_that_a_killed_dvc_left_empty_is_removed_before_a_run(restored):
    locks = restored.root / ".dvc/tmp/rwlock"
    assert restored.run(sys.executable, "-m", "stages.unlock") == ""
    before = locks.read_text()
    locks.write_text("")
    assert "Unable to read RWLock-file" in restored.run("dvc", "repro", status=255)
    assert "removed" in restored.run(sys.executable, "-m", "stages.unlock")
    assert not locks.exists()
    assert restored.repro() == []
    assert locks.read_text() == before


def test_a_lock_file_that_dvc_is_writing_is_left_alone(here):
    locks = here / ".dvc/tmp/rwlock"
    before = locks.read_text()
    with make_lock(str(unlock.GUARD)), ThreadPoolExecutor() as pool:
        locks.write_text("")
        waiting = pool.submit(unlock.main)
        locks.write_text(before)
    waiting.result()
    assert locks.read_text() == before
