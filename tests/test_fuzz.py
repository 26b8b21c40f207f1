"""Whatever a file holds: it is read, or refused by its name; never a traceback or something half done."""

import contextlib
import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qc.__main__ import main
from qc.commands.check import FILES as SCORED
from qc.config.settings import Settings
from qc.config.sources import Sources
from qc.errors import QcError
from qc.fetch.http import Unavailable
from qc.fetch.packages import copy_zip_member, read_tar_member
from qc.inference.predictor import load
from qc.questions.reader import read_questions
from qc.schema import read_yaml
from tests.conftest import ROOT

PARAMS = (ROOT / "params.yaml").read_bytes()
SOURCES = (ROOT / "data/sources.yaml").read_bytes()
LONGEST_MESSAGE = 20_000  # characters: somebody has to read it

many = settings(max_examples=3 * settings.default.max_examples)
some = settings(max_examples=settings.default.max_examples * 3 // 5)


NASTY_YAML = [
    "&a [*a]", "*nowhere", "!!python/object/apply:os.system [true]", "!!timestamp 2020-99-99", "!!timestamp x",
    "!!binary x", "0001-01-01 00:00:00 +23:59", ":".join(["1"] * 300) + ".5", '"\\UFFFFFFFF"',
    "!!set {a}", "? [a] : b", "{[a]: b}", "{? {a: b} : c}", "<<: *a", "<<: 1", "9" * 5000, "0x", "0b2", "1:99:99",
    ".inf", "-.nan",
    "[" * 3000, "{a: " * 3000, "- " * 3000, '"\\0"', '"\\ud800"', "|\n x\n y", ">\n\n", "---\n---", "...", "%YAML 9.9",
    "{l: &l [x, x, x, x, x, x, x, x], m: &m [*l, *l, *l, *l, *l, *l, *l, *l], n: &n [*m, *m, *m, *m, *m, *m, *m, *m],"
    " o: &o [*n, *n, *n, *n, *n, *n, *n, *n], p: &p [*o, *o, *o, *o, *o, *o, *o, *o], q: [*p, *p, *p, *p, *p, *p, *p]}",
    "1e999", "-1e999", "10000000000000000000000000000000", "null", "~", "''", "{}", "[]", "[[], {}]", "yes",
    "x" * 100_000,
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=8,
)
YAML_FILES = VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode())
SHORT_BYTES = st.binary(max_size=12) | st.sampled_from([text.encode() for text in NASTY_YAML]) | st.sampled_from(
    [b"\0", b"\n", b"\t", b"\r", b'"', b"{", b"[", b",", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"NaN", b"1e999"]
)  # fmt: skip


@st.composite
def damaged(draw, content):
    """Bytes with a few pieces of them left out, put in, or there twice."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.integers(0, 40)))
        content[begin:end] = draw(st.just(b"") | SHORT_BYTES | st.just(bytes(content[begin:end] * 2)))
    return bytes(content)


@st.composite
def with_another_value(draw, content):
    """A YAML file with another value somewhere."""
    lines = content.decode().splitlines()
    place = draw(st.sampled_from([number for number, line in enumerate(lines) if ":" in line.split("#")[0]]))
    value = draw(st.sampled_from(NASTY_YAML) | VALUES.map(lambda value: json.dumps(value)))
    lines[place] = f"{lines[place].split(':')[0]}: {value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def changed(content):
    return damaged(content) | with_another_value(content)


def refused_well(error, name):
    told = str(error)
    assert all(line.startswith(name) for line in told.splitlines()), told
    assert len(told) < LONGEST_MESSAGE


@pytest.mark.parametrize(("kind", "content"), [(Settings, PARAMS), (Sources, SOURCES)])
@pytest.mark.soak
def test_a_yaml_file_is_read_or_refused_by_file_and_key(kind, content, tmp_path):
    path = tmp_path / "x.yaml"

    @many
    @given(changed(content) | st.binary() | YAML_FILES)
    def check(content):
        path.write_bytes(content)
        try:
            assert isinstance(read_yaml(kind, path, "x.yaml"), kind)
        except QcError as error:
            refused_well(error, "x.yaml")

    check()


@pytest.mark.parametrize("which", ["presets/x.yaml", "params.yaml"])
@pytest.mark.soak
def test_a_preset_is_laid_over_or_refused_and_params_stay(which, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("presets").mkdir()
    Path("presets/x.yaml").write_bytes((ROOT / "presets/notebook-mini.yaml").read_bytes())
    Path("params.yaml").write_bytes(PARAMS)
    original = Path(which).read_bytes()

    @many
    @given(changed(original))
    def check(content):
        Path("params.yaml").write_bytes(PARAMS)
        Path(which).write_bytes(content)
        before = Path("params.yaml").read_bytes()
        status = main(["preset", "x"])
        told = capsys.readouterr()
        if status:
            assert status == 2
            assert Path("params.yaml").read_bytes() == before
            for line in told.err.removeprefix("error: ").splitlines():
                assert line.startswith(("params.yaml", "presets/x.yaml"))
            assert len(told.err) < LONGEST_MESSAGE
        else:
            read_yaml(Settings, Path("params.yaml"), "params.yaml")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "presets"]

    check()


JSON_LINES = '{"text": "Who wrote Hamlet ?", "label": "a"}\n{"text": "Où ?", "label": 3}\n'.encode()
WELL_FORMED = {
    ".label": "HUM:ind Who wrote Hamlet ?\nLOC:other Où ?\n".encode(),
    ".csv": 'text,label\n"Who wrote ""Hamlet"" ?",a\nOù ?,b\n'.encode(),
    ".tsv": "text\tlabel\nWho wrote Hamlet ?\ta\nOù ?\tb\n".encode(),
    ".jsonl": JSON_LINES,
    ".txt": "Who wrote Hamlet ?\nOù ?\n".encode(),
}
NASTY_JSON = [b"[" * 100_000, b"9" * 5000, b'{"text": ' * 5000, b'{"text": "\\ud800"}', b'"text"', b'{"text": null}']


@pytest.mark.parametrize("ending", WELL_FORMED)
def test_questions_are_read_or_refused_by_line(ending):
    columns = {"text": "text", "label": "label"}

    @many
    @given(st.binary() | damaged(WELL_FORMED[ending]) | st.sampled_from(NASTY_JSON))
    def check(content):
        try:
            questions = list(read_questions(io.BytesIO(content), ending, columns, "x"))
        except QcError as error:
            refused_well(str(error).encode("unicode_escape").decode(), "x:")
        else:
            assert questions
            assert all(question.text.strip() and (question.coarse or ending == ".txt") for _, question in questions)
            assert [number for number, _ in questions] == sorted({number for number, _ in questions})

    check()


@pytest.mark.soak
def test_every_question_that_is_read_is_answered(here, tmp_path, capsys):
    path = tmp_path / "x.jsonl"

    @some
    @given(
        st.binary()
        | damaged(JSON_LINES)
        | st.sampled_from(NASTY_JSON)
        | st.text().map(lambda text: json.dumps({"text": text}).encode())
    )
    def check(content):
        path.write_bytes(content)
        status = main(["predict", "--json", "--file", str(path)])
        said = capsys.readouterr()
        if status:
            assert (status, said.out) == (2, "")
        else:
            questions = read_questions(io.BytesIO(content), ".jsonl", {"text": "text"}, "x")
            answers = [json.loads(line) for line in said.out.split("\n")[:-1]]
            assert [(row["line"], row["text"]) for row in answers] == [
                (line, question.text) for line, question in questions
            ]

    check()


@pytest.mark.parametrize(("split", "files"), SCORED.items())
@pytest.mark.parametrize("kind", [0, 1], ids=["scores", "predictions"])
def test_metrics_are_compared_or_refused_by_file(restored, split, files, kind, monkeypatch, capsys):
    monkeypatch.chdir(restored.root)
    monkeypatch.setattr("qc.commands.check.refuse_stale_scores", lambda: None)  # which asks DVC, and reads neither file
    path = restored.root / files[kind]
    original = path.read_bytes()

    @some
    @given(damaged(original) | st.binary() | st.sampled_from([b"[" * 100_000, b'{"a":' * 5000, b"9" * 5000]))
    def check(content):
        path.write_bytes(content)
        status = main(["check", "--base", "HEAD", "--split", split])
        told = capsys.readouterr()
        assert status in (0, 1, 2)
        if told.err:
            assert status == 2
            assert told.err.startswith(
                ("error: metrics/", "error: reports/", "error: the scores ", "error: params.yaml: gate.")
            )
            assert len(told.err) < LONGEST_MESSAGE
        else:
            assert "metrics gate on " in told.out

    check()


@pytest.fixture
def model(here, tmp_path):
    """A copy of a model and its encoder, to be damaged."""
    shutil.copytree(here / "models/prefix", tmp_path / "models/prefix")
    shutil.copytree(here / "data/encoders", tmp_path / "data/encoders")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "models/prefix/config.json",
        "models/prefix/model.safetensors",
        "data/encoders/tiny-bert/config.json",
        "data/encoders/tiny-bert/model.safetensors",
        "data/encoders/tiny-bert/tokenizer.json",
    ],
)
def test_a_model_is_loaded_or_refused_by_file(model, name):
    path = model / name
    original = path.read_bytes()

    @some
    @given(damaged(original) | with_another_json_value(original) | with_another_header(original))
    def check(content):
        path.write_bytes(content)
        try:
            load(model / "models/prefix").predict(["who ?"])
        except QcError as error:
            refused_well(str(error).splitlines()[0], str(model))

    check()


def with_another_json_value(content):
    """A JSON file with another value somewhere, no other file."""
    try:
        fields = json.loads(content)
    except ValueError:
        return st.nothing()
    return st.tuples(st.sampled_from(sorted(fields)), VALUES).map(
        lambda change: json.dumps({**fields, change[0]: change[1]}).encode()
    )


def with_another_header(content):
    """A safetensors file whose header lies, no other file."""
    size = int.from_bytes(content[:8], "little")
    if size > len(content):
        return st.nothing()
    header = st.integers(0, 2**64 - 1).map(lambda size: size.to_bytes(8, "little") + content[8:])
    fields = damaged(content[8 : 8 + size]).map(
        lambda header: len(header).to_bytes(8, "little") + header + content[8 + size :]
    )
    return header | fields


def archive(kind):
    out = io.BytesIO()
    if kind == "npm":
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in ("package/a.txt", "package/all.txt"):
                info = tarfile.TarInfo(name)
                info.size = 600
                tar.addfile(info, io.BytesIO(bytes(range(200)) * 3))
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name in ("package/a.txt", "package/all.txt"):
                wheel.writestr(name, bytes(range(200)) * 3)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["npm", "wheel"])
def test_an_archive_is_read_or_refused(kind, tmp_path):
    path = tmp_path / "archive"

    @many
    @given(damaged(archive(kind)) | st.binary())
    def check(content):
        path.write_bytes(gzip.compress(content, 1) if kind == "npm" else content)  # damage behind gzip's checksum
        with contextlib.suppress(Unavailable):
            if kind == "npm":
                assert isinstance(read_tar_member(path, "package/all.txt"), bytes)
            else:
                copy_zip_member(path, "package/all.txt", out := io.BytesIO(), 600)
                assert len(out.getvalue()) <= 601

    check()
