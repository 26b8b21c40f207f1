"""Corrected labels: a table of one's own that the tokenize stage applies to the questions of train."""

import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qc.config.settings import Settings
from qc.errors import QcError
from qc.files import read_csv, read_json, write_csv
from qc.questions.raw import apply_corrections, read_raw
from qc.questions.reader import LabelledQuestion, read_questions
from qc.questions.text import normalize_label, normalize_text
from qc.schema import parse_yaml
from tests.conftest import ROOT, STAGES, outputs, pin
from tests.test_questions import LABELS, TEXTS

FORMULAS = st.sampled_from(["=1+1 ?", "-5 degrees ?", "'tis what ?", "@home ?", "'-1", "-1", "+", "@x", "''=x"])
PATH = "data/own/corrections.csv"


def apply(path, *questions):
    return list(apply_corrections(path, path.name, questions))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(TEXTS | FORMULAS, LABELS | FORMULAS), min_size=1, max_size=6, unique_by=lambda r: normalize_text(r[0])
    )
)
def test_what_qc_labels_wrote_is_taken_back_text_and_label(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("corrections") / "c.csv"
    rows = [(text, normalize_label(label)) for text, label in rows]
    write_csv(path, ["text", "label"], rows, inert=True)
    given = [LabelledQuestion("other", "x", text) for text, _ in rows]
    given += [LabelledQuestion(label, "x", f"a question {label}") for _, label in rows]
    assert apply(path, *given) == [
        *(LabelledQuestion(label, "", text) for text, label in rows), *given[len(rows):]
    ]  # fmt: skip


def test_every_question_of_the_same_text_is_corrected_and_a_right_one_keeps_its_fine_label(tmp_path):
    (tmp_path / "c.tsv").write_text("label\ttext\twhy\nb\tWho  is it\tread it\n", encoding="utf-8")
    given = [LabelledQuestion("a", "x", "who is it"), LabelledQuestion("b", "y", "WHO is it")]
    assert apply(tmp_path / "c.tsv", *given) == [LabelledQuestion("b", "", "who is it"), given[1]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("text,label\nmissing ?,b\n", "2: no question of fetch.train has this text; correct or remove the row"),
        ("text,label\nx,b\ny,a\nX,a\n", "4: label 'a'; expected 'b', which line 2 gives the same text; remove one of"),
        (
            "text,label\nx,b\ny,c\n",
            "3: label 'c'; expected a class of fetch.train: a, b; a new class needs questions with",
        ),
        ("text,label\nx\n", "2: 1 fields, 2 columns"),
        ("text,label\nx,\n", "2: label is empty"),
        ("text,label\n", " empty"),
        ("question,label\nx,b\n", "1: no column 'text', which the format of corrections names; columns are: question,"),
    ],
)
def test_a_row_that_cannot_be_applied_is_refused_by_its_line(tmp_path, content, told):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(QcError) as caught:
        apply(tmp_path / "c.csv", LabelledQuestion("a", "", "x"), LabelledQuestion("b", "", "y"))
    assert str(caught.value).startswith(f"c.csv:{told}")


def test_questions_of_the_official_test_stay_as_they_are(tmp_path):
    (tmp_path / "train.label").write_text("HUM:ind who is it\nLOC:city where\n")
    (tmp_path / "test.label").write_text("HUM:ind who is it\n")
    (tmp_path / "corrections.csv").write_text("text,label\nwho is it,LOC\n")
    names = ("train.label", "test.label", "corrections.csv")
    files = {name.partition(".")[0]: {"file": name, "name": name, "columns": None} for name in names}
    assert list(read_raw(tmp_path, files)) == [
        ("train", LabelledQuestion("LOC", "", "who is it")),
        ("train", LabelledQuestion("LOC", "city", "where")),
        ("test", LabelledQuestion("HUM", "ind", "who is it")),
    ]


def write(project, *rows):
    (project.root / PATH).write_text("".join(f"{line}\n" for line in ("text,label", *rows)))
    project.set("fetch.corrections", PATH)


def questions(project):
    return [tuple(row[key] for key in ("text", "coarse", "fine", "label")) for row in project.questions()]


def test_corrections_are_applied_to_train_recorded_and_off_by_default(restored):
    before, record = questions(restored), read_json(restored.root / "data/raw/files.json")
    assert list(record) == ["train"]
    (text, first, *_), (other, coarse, *_) = before[:2]
    assert first == "ABBR"
    write(restored, f"{text.upper()},LOC", f"{other},{coarse}")
    restored.stage("fetch")
    recorded = {"file": "corrections.csv", "name": PATH, **pin(restored.root / PATH), "licence": None, "columns": None}
    assert read_json(restored.root / "data/raw/files.json") == {**record, "corrections": recorded}
    same = sum(row[0] == other for row in before)
    told = f"{PATH}: {sum(row[0] == text for row in before)} question(s) of fetch.train got another label, {same} had"
    assert told in restored.stage("tokenize")
    assert questions(restored) == [(text, "LOC", "", 3) if row[0] == text else row for row in before]
    whole = outputs(restored)
    write(restored, "what is missing ?,LOC")
    restored.stage("fetch")
    told = f"\nerror: {PATH}:2: no question of fetch.train has this text; correct or remove the row"
    assert told in restored.stage("tokenize", status=1)
    restored.set("fetch.corrections", "data/own/none.csv")
    told = "fetch.corrections: 'data/own/none.csv': no such file; expected null, or the path of a"
    assert told in restored.stage("fetch", status=1)
    assert {name for name in whole if outputs(restored)[name] != whole[name]} == {
        "data/own/corrections.csv", "data/raw/corrections.csv", "data/raw/files.json"
    }  # fmt: skip
    restored.set("fetch.corrections", "null")
    restored.stage("fetch")
    assert not (restored.root / "data/raw/corrections.csv").exists()
    restored.stage("tokenize")
    assert questions(restored) == before


def test_a_correction_reruns_the_pipeline_and_a_question_without_fine_label_is_learned_from(restored):
    restored.set("train_prefix.batch_size", 1)  # batches in which no question has a fine class
    restored.set("train_scratch.select_by", "last")
    rows = [f"{text},LOC" for text, coarse, *_ in questions(restored)[:40] if coarse == "ABBR"]
    write(restored, *rows)
    assert restored.repro() == STAGES
    assert all(math.isfinite(float(row["train_loss"])) for row in read_csv(restored.root / "plots/train_prefix.csv"))
    prefix, scratch = ((restored.root / f"reports/cards/{name}.md").read_text() for name in ("prefix", "scratch"))
    assert f"corrected labels of training questions: `{PATH}`" in prefix
    assert "the best by accuracy on validation" in prefix
    assert "The weights are those of epoch 2.\n" in scratch
    classes = read_json(restored.root / "reports/data.json")["classes"]
    assert sum(classes[split]["LOC"] for split in classes) == 30 + len(set(rows))


@pytest.mark.parametrize("value", ["data/own/x.label", "http://x/y.csv"])
def test_corrections_are_a_table_of_ones_own(value):
    params = (ROOT / "params.yaml").read_text().replace("corrections: null", f"corrections: {value}")
    told = f"fetch.corrections: invalid value {value!r}; expected a path that ends in .csv"
    with pytest.raises(QcError, match=re.escape(told)):
        parse_yaml(Settings, params, "params.yaml")


@pytest.mark.skipif("QC_MIRROR" not in os.environ, reason="needs train_5500.label in the folder of QC_MIRROR")
def test_each_correction_that_comes_with_the_project_changes_a_label_and_says_why():
    path = ROOT / "data/train_5500_corrections.csv"
    with (Path(os.environ["QC_MIRROR"]) / "train_5500.label").open("rb") as file:
        published = [question for _, question in read_questions(file, ".label", None, file.name)]
    corrected = {"changed": 0, "same": 0}
    assert len(list(apply_corrections(path, path.name, published, corrected))) == len(published)
    assert corrected == {"changed": 9, "same": 0}
    assert all(row["reason"] for row in read_csv(path))
