"""Corrected labels: a table of one's own that the tokenize stage applies to the questions of train."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.errors import QcError
from qc.files import read_csv, read_json, write_csv
from qc.questions.raw import apply_corrections
from qc.questions.reader import LabelledQuestion
from qc.questions.text import normalize_label, normalize_text
from tests.conftest import STAGES, label_lines, outputs, pin
from tests.test_questions import LABELS, TEXTS

FORMULAS = st.sampled_from(["=1+1 ?", "-5 degrees ?", "'tis what ?", "@home ?", "'-1", "-1", "+", "@x", "''=x"])
PATH = "data/own/corrections.csv"


def write(project, *rows, header="text,label"):
    (project.root / PATH).write_text("".join(f"{line}\n" for line in (header, *rows)))
    project.set("fetch.corrections", PATH)


def questions(project):
    keys = ("text", "coarse", "fine", "label")
    return [("test" if row["official"] else "train", *(row[key] for key in keys)) for row in project.questions()]


def test_corrections_are_applied_to_train_recorded_and_off_by_default(restored):
    before, record = questions(restored), read_json(restored.root / "data/raw/files.json")
    assert list(record) == ["train"]
    (partition, text, *_), (_, other, coarse, fine, label) = before[0], before[1]
    assert before[0][2] == "ABBR"
    write(restored, f"{text.upper()},LOC", f"{other},{coarse}")
    restored.set("fetch.test", "official.label")
    restored.stage("fetch")
    recorded = {"file": "corrections.csv", "name": PATH, **pin(restored.root / PATH)}
    found = read_json(restored.root / "data/raw/files.json")
    assert found == {**found, "train": record["train"], "corrections": {**recorded, "licence": None, "columns": None}}
    assert (restored.root / "data/raw/corrections.csv").read_bytes() == (restored.root / PATH).read_bytes()
    restored.stage("tokenize")
    after = [row for row in questions(restored) if row[0] == "train"]
    assert after[:2] == [(partition, text, "LOC", "", 3), ("train", other, coarse, fine, label)]
    same = [row for row in before if row[1] != text]
    assert [row for row in after if row[1] != text] == same
    restored.set("fetch.corrections", "null")
    restored.stage("fetch")
    assert not (restored.root / "data/raw/corrections.csv").exists()
    restored.stage("tokenize")
    assert [row for row in questions(restored) if row[0] == "train"] == before


def test_a_correction_reruns_the_pipeline_and_a_question_without_fine_label_is_learned_from(restored):
    restored.set("train_prefix.batch_size", 1)  # batches in which no question has a fine class
    restored.set("train_scratch.select_by", "last")
    rows = [f"{text},LOC" for _, text, coarse, *_ in questions(restored)[:40] if coarse == "ABBR"]
    write(restored, *rows)
    assert restored.repro() == STAGES
    assert all(math.isfinite(float(row["train_loss"])) for row in read_csv(restored.root / "plots/train_prefix.csv"))
    prefix, scratch = ((restored.root / f"reports/cards/{name}.md").read_text() for name in ("prefix", "scratch"))
    assert f"corrected labels of training questions: `{PATH}`" in prefix
    assert "the best by accuracy on validation" in prefix
    assert "The weights are those of epoch 2.\n" in scratch
    classes = read_json(restored.root / "reports/data.json")["classes"]
    assert sum(classes[split]["LOC"] for split in classes) == 30 + len(set(rows))


def test_questions_of_the_official_test_stay_as_they_are(restored):
    shared = "HUM:fine0 who is in the house"
    (restored.root / "data/own/train.label").write_text("".join(f"{line}\n" for line in [*label_lines(150), shared]))
    (restored.root / "data/own/test.label").write_text("".join(f"{line}\n" for line in [*label_lines(5), shared]))
    restored.set("fetch.train", "data/own/train.label")
    restored.set("fetch.test", "data/own/test.label")
    write(restored, "who is in the house,LOC")
    restored.stage("fetch")
    restored.stage("tokenize")
    found = [(partition, coarse) for partition, text, coarse, *_ in questions(restored) if text == shared[10:]]
    assert found == [("train", "LOC"), ("test", "HUM")]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["what is missing ?,LOC"], f"{PATH}:2: no question of fetch.train has this text; correct or remove the row"),
        (["{0},LOC", "{0},HUM"], f"{PATH}:3: label 'HUM'; expected 'LOC', which line 2 gives the same text; remove"),
        (["{0},LOK"], f"{PATH}:2: label 'LOK'; expected a class of fetch.train: ABBR, DESC, HUM, LOC, NUM"),
        (["{0}"], f"{PATH}:2: 1 fields, 2 columns"),
        (["{0},"], f"{PATH}:2: label is empty"),
        ([], f"{PATH}: empty"),
    ],
)
def test_a_row_that_cannot_be_applied_is_refused_by_its_line(restored, rows, told):
    text = questions(restored)[0][1]
    write(restored, *(row.format(text) for row in rows))
    restored.stage("fetch")
    before = outputs(restored)
    output = restored.stage("tokenize", status=1)
    assert f"\nerror: {told}" in output
    assert outputs(restored) == before


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("data/own/none.csv", "fetch.corrections: 'data/own/none.csv': no such file; expected null, or the path of a"),
        ("data/own/x.label", "fetch.corrections: invalid value 'data/own/x.label'; expected a path that ends in .csv"),
        ("http://x/y.csv", "fetch.corrections: invalid value 'http://x/y.csv'; expected a path that ends in .csv"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_refused(restored, value, told):
    before = outputs(restored)
    restored.set("fetch.corrections", value)
    assert told in restored.stage("fetch", status=1)
    assert outputs(restored) == before


def test_a_table_without_the_two_columns_is_refused(restored):
    write(restored, "who ?,LOC", header="question,label")
    restored.stage("fetch")
    told = f"error: {PATH}:1: no column 'text', which the format of corrections names; columns are: question, label"
    assert told in restored.stage("tokenize", status=1)


def apply(path, *questions):
    return list(apply_corrections(path, path.name, questions))


@given(
    st.lists(
        st.tuples(TEXTS | FORMULAS, LABELS | FORMULAS),
        min_size=1,
        unique_by=lambda row: normalize_text(row[0]),
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


def test_a_class_that_only_corrections_name_is_refused_even_where_other_rows_fit(tmp_path):
    (tmp_path / "c.csv").write_text("text,label\nx,b\ny,c\n")
    with pytest.raises(QcError, match=r"c\.csv:3: label 'c'; expected a class of fetch.train: a, b"):
        apply(tmp_path / "c.csv", LabelledQuestion("a", "", "x"), LabelledQuestion("b", "", "y"))
