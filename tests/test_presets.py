"""Presets: laid over params.yaml without disturbing it."""

import pytest
import yaml

from qc.__main__ import main
from qc.config.presets import list_presets, read_preset
from qc.config.settings import Settings
from qc.schema import read_yaml
from tests.conftest import ROOT

PRESETS = ROOT / "presets"
NAMES = list_presets(PRESETS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of params.yaml and the presets, in the working directory."""
    (tmp_path / "presets").mkdir()
    for path in (ROOT / "params.yaml", *PRESETS.glob("*.yaml")):
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(path, part=None):
    """The values below the sections of a YAML file, or of a part of it, by dotted name."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content = content[part] if part else content
    return {
        f"{section}.{key}": value
        for section, inner in content.items()
        for key, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_changes_its_values_and_nothing_else_and_does_so_once(folder, name, capsys):
    path = folder / "params.yaml"
    before, words = values(path), path.read_text()
    assert main(["preset", name]) == 0
    after = values(path)
    assert after == before | values(folder / "presets" / f"{name}.yaml", "params")
    comments = [line.partition("#")[2] for line in words.splitlines()]
    assert [line.partition("#")[2] for line in path.read_text().splitlines()] == comments
    assert read_yaml(Settings, path, "params.yaml").train_prefix
    words = path.read_text()
    capsys.readouterr()
    assert main(["preset", name]) == 0
    assert path.read_text() == words
    assert "already" in capsys.readouterr().out


def test_a_dry_run_prints_the_difference_and_writes_nothing(folder, capsys):
    before = (folder / "params.yaml").read_bytes()
    assert main(["preset", "trec", "--dry-run"]) == 0
    assert (folder / "params.yaml").read_bytes() == before
    lines = [" ".join(line.partition("#")[0].split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "fetch:",
        "- train: train_2000.label",
        "- test: null",
        "+ train: train_5500.label",
        "+ test: TREC_10.label",
    ]


def test_the_list_tells_purpose_and_time(capsys, folder):
    assert main(["preset", "--list"]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        preset = read_preset(PRESETS, name)
        assert preset["purpose"] in said
        assert f"time: {preset['takes']}" in said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("params: {train_prefix: {prefix_lenght: 5}}",
         "3: train_prefix.prefix_lenght: unknown key; did you mean prefix_length?"),
        ("params: {train_prefx: {}}", "3: train_prefx: unknown key; did you mean train_prefix?"),
        ("params: {seed: {of: 1}}", "seed: invalid value {'of': 1}; expected integer"),
        ("params: {split: 1}", "split: invalid value 1; expected "),
        ("params: {train_scratch: {hidden_size: 255}}", "train_scratch.hidden_size: invalid value 255"),
        ("params: {seed: many}", "seed: invalid value 'many'"),
        ("params: [1]", "params: invalid value [1]; expected "),
        ("parms: {seed: 2}", "parms: unknown key; did you mean params?"),
        ("params: {seed: 2}\nnote: x", "4: note: unknown key; expected one of purpose, takes, params"),
        ("params: {seed: 2", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_bad_preset_is_refused_and_params_stay(folder, capsys, content, told):
    before = (folder / "params.yaml").read_bytes()
    (folder / "presets/bad.yaml").write_text(f"purpose: p\ntakes: t\n{content}\n")
    assert main(["preset", "bad"]) == 2
    assert told in capsys.readouterr().err
    assert (folder / "params.yaml").read_bytes() == before


def test_an_unknown_name_is_refused_with_those_there_are(folder, capsys):
    assert main(["preset", "../params"]) == 2
    assert f"unknown preset '../params'; expected one of {', '.join(NAMES)}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["trec", "--list"], ["--list", "--dry-run"]])
def test_it_takes_a_name_or_lists(folder, capsys, arguments):
    assert main(["preset", *arguments]) == 2
    assert capsys.readouterr().err == "error: expected either the name of a preset, or --list alone\n"
