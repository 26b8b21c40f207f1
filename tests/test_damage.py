"""Outputs that were damaged: `dvc repro` ends in the right bytes, or says what is in its way.

One output of each stage here, all of them in tests/stress.py.
"""

import pytest
from dvc.lock import make_lock

from tests.conftest import in_soak, outputs
from tests.faults import AS_OTHERS, DAMAGES, allow_writing, forbid_writing, output_paths, refused_clearly


@pytest.mark.parametrize("damage", in_soak([name for name in DAMAGES if name != "read-only"], but="bit flipped"))
def test_damaged_outputs_of_every_stage_come_back(restored, damage):
    before = outputs(restored)
    shift = list(DAMAGES).index(damage)
    for paths in output_paths(restored).values():
        DAMAGES[damage](paths[shift % len(paths)])
    assert outputs(restored) != before
    restored.repro()
    assert outputs(restored) == before
    assert restored.run("git", "status", "--porcelain") == ""


@pytest.mark.parametrize("stage", in_soak(["fetch", "tokenize", "train_scratch", "evaluate"], but="tokenize"))
def test_a_damaged_output_that_cannot_be_written_is_named_and_comes_back_when_it_can(restored, stage):
    before = outputs(restored)
    forbid_writing(path := output_paths(restored)[stage][0])
    try:
        told = restored.run(*AS_OTHERS, "dvc", "repro", status=255)
    finally:
        allow_writing(restored)
    assert refused_clearly(told)
    assert "Permission denied" in told
    assert str(path.parent.relative_to(restored.root)) in told
    restored.repro()
    assert outputs(restored) == before


@pytest.mark.soak
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


@pytest.mark.parametrize(
    ("name", "says", "done"),
    [
        (".dvc/tmp/rwlock", "Unable to read RWLock-file", "removed"),
        ("dvc.lock", "'./dvc.lock' validation failed", "git's version restored"),
    ],
)
def test_a_file_that_a_killed_dvc_left_empty_is_repaired_before_a_run(restored, name, says, done):
    path = restored.root / name
    assert "DVC's files: ok" in restored.run("qc", "doctor", "--quick")
    before = path.read_text()
    path.write_text("")
    assert says in restored.run("dvc", "repro", status=255)
    broken = f"DVC's files: {name}: broken, DVC was killed while it wrote this file; "
    assert f"{broken}`qc doctor --fix` repairs it" in restored.run("qc", "doctor", "--quick", status=1)
    assert f"{broken}{done}\n" in restored.run("qc", "doctor", "--quick", "--fix")
    assert restored.repro() == []
    assert path.read_text() == before


def test_a_dvc_lock_that_git_does_not_know_is_removed(restored, tmp_path):
    project = restored.clone(tmp_path / "clone")
    project.run("git", "rm", "--quiet", "--cached", "dvc.lock")
    (project.root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  fetch:\n    cmd")
    assert "dvc.lock: broken, DVC was killed" in project.run("qc", "doctor", "--quick", "--fix")
    assert not (project.root / "dvc.lock").exists()


def test_a_conflict_in_dvc_lock_is_left_to_whoever_merges(restored):
    path = restored.root / "dvc.lock"
    path.write_text(conflict := f"<<<<<<< HEAD\n{path.read_text()}=======\n>>>>>>> other\n")
    assert "DVC's files: ok" in restored.run("qc", "doctor", "--quick")
    assert path.read_text() == conflict


@pytest.mark.parametrize(("name", "lock"), [(".dvc/tmp/rwlock", ".dvc/tmp/rwlock.lock"), ("dvc.lock", ".dvc/tmp/lock")])
def test_a_file_that_dvc_is_writing_is_left_alone(restored, name, lock):
    path = restored.root / name
    with make_lock(str(restored.root / lock)):
        path.write_text("")
        assert "DVC's files: ok" in restored.run("qc", "doctor", "--quick", "--fix")
        assert path.read_text() == ""
    assert f"{name}: broken" in restored.run("qc", "doctor", "--quick", status=1)
