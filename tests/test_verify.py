"""Two runs from nothing give the same bytes, and so does a portable one elsewhere; a difference would be seen."""

import re
import signal
import sys

import psutil
import pytest

from qc.commands.verify import compare_outputs, read_record
from qc.errors import QcError


@pytest.mark.soak
def test_two_runs_from_nothing_end_in_the_same_bytes(project):
    output = project.run("qc", "verify")
    rows = [line.split() for line in output.splitlines() if len(line.split()) == 3]
    same = {name for name, verdict, digest in rows if verdict == "same" and len(digest) == 64}
    models = [f"models/{name}/model.safetensors" for name in ("scratch", "prefix", "distilbert")]
    assert same >= {"dvc.lock", "data/raw/train.label", "metrics/predictions.csv", *models}
    assert "DIFFERENT" not in output
    assert f"{len(same)} outputs, the same bytes in two runs of the same commit\n" in output
    assert "dvc.lock of the commit differs" in output  # none is committed


def test_a_difference_or_a_missing_output_is_shown(capsys):
    with pytest.raises(QcError, match="2 of 3 outputs differ between two runs"):
        compare_outputs({"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"a": "1" * 64, "b": "4" * 64}, "two runs")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["same", "DIFFERENT", "DIFFERENT"]
    assert "333333333333 / missing" in lines[2]


@pytest.mark.soak
def test_a_portable_run_is_recorded_and_compared_with_the_record(project):
    record = project.root / "docs/portable.sha256"
    record.unlink()
    assert "docs/portable.sha256: cannot be read" in project.run("qc", "verify", "--portable", status=2)
    assert "docs/portable.sha256: written, " in project.run("qc", "verify", "--record")
    recorded = dict(reversed(line.split("  ")) for line in record.read_text().splitlines()[1:])
    models = {f"models/{name}/model.safetensors" for name in ("scratch", "prefix", "distilbert")}
    assert {"metrics/predictions.csv", "data/split/tiny-bert/test.parquet", *models} <= recorded.keys()
    assert not any(path.startswith(("data/raw", "data/encoders", "dvc.lock")) for path in recorded)
    wrong = recorded["metrics/predictions.csv"]
    record.write_text(record.read_text().replace(wrong, "0" * 64))
    output = project.run("qc", "verify", "--portable", status=2)
    assert f"error: 1 of {len(recorded)} outputs differ between a run here and docs/portable.sha256" in output
    assert "DIFFERENT" in next(line for line in output.splitlines() if line.startswith("metrics/predictions.csv"))


def test_the_committed_portable_record_has_every_model_and_score():
    recorded = read_record()
    for name in ("scratch", "prefix", "distilbert"):
        assert {f"models/{name}/model.safetensors", f"metrics/test_{name}.json"} <= recorded.keys()
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in recorded.values())


@pytest.mark.soak
@pytest.mark.parametrize(("command", "number"), [("verify", signal.SIGTERM), ("seeds", signal.SIGINT)])
def test_a_stopped_run_leaves_no_process_and_no_folder(project, tmp_path, command, number):
    (tmp_path / "tmp").mkdir()
    log = tmp_path / "log"
    process = project.start(log, sys.executable, "-m", "qc", command, TMPDIR=str(tmp_path / "tmp"))
    while "trainable parameters" not in log.read_text():  # a stage that trains
        assert process.poll() is None, log.read_text()
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not psutil.wait_procs(started, timeout=60)[1]
    assert list((tmp_path / "tmp").iterdir()) == []
    said = log.read_text()
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert project.run("git", "status", "--porcelain") == ""
