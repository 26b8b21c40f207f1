"""Two runs from nothing give the same bytes, and a difference would be seen."""

import pytest

from qc.commands.verify import compare_outputs

pytestmark = pytest.mark.soak


def test_two_runs_from_nothing_end_in_the_same_bytes(project):
    output = project.run("qc", "verify")
    rows = [line.split() for line in output.splitlines() if len(line.split()) == 3]
    same = {name for name, verdict, digest in rows if verdict == "same" and len(digest) == 64}
    models = [f"models/{name}/model.safetensors" for name in ("scratch", "prefix", "distilbert")]
    assert same >= {"dvc.lock", "data/raw/train.label", "metrics/evaluate.json", "metrics/predictions.csv", *models}
    assert "DIFFERENT" not in output
    assert f"two runs, {len(same)} outputs, the same bytes" in output


def test_a_difference_or_a_missing_output_is_shown():
    lines, different = compare_outputs({"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"a": "1" * 64, "b": "4" * 64})
    assert different == 2
    assert [line.split()[1] for line in lines] == ["same", "DIFFERENT", "DIFFERENT"]
    assert "333333333333 / missing" in lines[2]
