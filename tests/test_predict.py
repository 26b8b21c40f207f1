"""`qc predict` and the predictor behind it, on the models of a finished project."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from qc import load
from qc.__main__ import main
from qc.commands import predict as predict_command
from qc.commands.predict import as_text
from qc.errors import QcError
from qc.files import read_csv, read_json, write_json
from qc.inference.logits import predict
from qc.inference.model_folder import read_config, write_config
from qc.inference.predictor import Prediction
from qc.questions.reader import read_questions
from tests.conftest import CLASSES, write_record
from tests.faults import make_folder

MODELS = ("scratch", "prefix", "distilbert")


@pytest.fixture
def copied(here, tmp_path, monkeypatch):
    """A copy of its models and encoders that may be broken, as the working directory."""
    for name in ("models", "reports", "data/encoders"):
        shutil.copytree(here / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_those_of_the_evaluation(here, name):
    rows = read_csv(here / "metrics/predictions.csv")
    found = load(here / "models" / name).predict([row["text"] for row in rows])
    assert [each.label for each in found] == [row[name] for row in rows]
    assert [max(each.probabilities.values()) for each in found] == pytest.approx(
        [float(row[f"{name}_probability"]) for row in rows],
        abs=5e-3,  # evaluated in the precision of training
    )


def test_probabilities_sum_to_one_and_do_not_depend_on_the_company(here):
    predictor = load(here / "models/distilbert")
    texts = ["who is the king ?", "many a dog in the river of the house is a cat ?", "where ?"]
    together = predictor.predict(texts)
    assert predictor.classes == sorted(CLASSES)
    for text, found in zip(texts, together, strict=True):
        [alone] = predictor.predict([text])
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert alone.label == found.label == max(found.probabilities, key=found.probabilities.get)
        assert list(alone.probabilities.values()) == pytest.approx(list(found.probabilities.values()), abs=1e-5)
    assert predictor.predict([]) == []


def test_questions_are_lower_cased_as_in_training(here):
    predictor = load(here / "models/scratch")
    [lower], [upper] = predictor.predict(["who is the king"]), predictor.predict(["WHO is the King"])
    assert lower.probabilities == upper.probabilities


def test_any_collection_of_texts_is_classified(here):
    predictor, texts = load(here / "models/scratch"), ["who is it ?", "where ?"]
    expected = predictor.predict(texts)
    for each in ((text for text in texts), tuple(texts), np.array(texts), pandas.Series(texts, index=[7, 3])):
        found = predictor.predict(each)
        assert [(row.text, type(row.text), row.label) for row in found] == [(x.text, str, x.label) for x in expected]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ("Hamlet", r"texts: a str; expected a list of texts, such as predict\(\['Who wrote Hamlet \?'\]\)"),
        (b"Hamlet", "texts: a bytes; expected a list"),
        (None, "texts: a NoneType; expected a list"),
        (np.array("Hamlet"), "texts: a ndarray; expected a list"),
        (pandas.DataFrame({"text": ["who ?"]}), "texts: a DataFrame; expected a list"),
        ({"text": "who ?"}, "texts: a dict; expected a list"),
        (["who ?", None], "^text 2 is None, expected a text; correct it, or leave it out$"),
        (pandas.Series(["who ?", "why ?", None]), "^text 3 is (None|nan), expected a text"),
        (["who ?", float("nan")], "^text 2 is nan, expected a text"),
        (["who ?", "\t"], "^text 2 is empty"),
        (["who \ud800 ?"], "^text 1 holds half a character"),
    ],
)
def test_what_is_no_collection_of_texts_is_refused(here, texts, told):
    with pytest.raises(QcError, match=told):
        load(here / "models/scratch").predict(texts)


def test_a_line_a_question(here, capsys):
    lines = said(capsys, "who is it ?", "where is the dog ?", "--top", 2, "--model", "prefix")
    assert [line.split("  ")[-1] for line in lines] == ["who is it ?", "where is the dog ?"]
    for line in lines:
        first, second = (float(part.split()[1]) for part in line.split("  ")[:2])
        assert first >= second
        assert line.split()[0] in CLASSES


def test_json_lines_hold_text_label_and_probabilities(here, capsys):
    [line] = said(capsys, "who is it ?", "--json")
    found = json.loads(line)
    assert list(found) == ["text", "label", "probabilities"]
    assert list(found["probabilities"]) == sorted(CLASSES)
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    [line] = said(capsys, "who is it ?", "--json", "--top", 2)
    ranked = sorted(found["probabilities"].items(), key=lambda each: -each[1])
    assert list(json.loads(line)["probabilities"].items()) == ranked[:2]


def test_a_file_and_standard_input_hold_a_question_a_line(here, capsys, tmp_path, monkeypatch):
    questions = ["who is it ?", 'where is the "dog" ?', "why — ünïcode ?"]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(questions) + "\n", encoding="utf-8")
    expected = said(capsys, *questions)
    assert len(expected) == 3
    assert said(capsys, "--file", path) == expected
    for arguments in ([], ["-"], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\r\n".join(questions).encode())))
        assert said(capsys, *arguments) == expected


ODD = ["who\x0bis the\x0cking ?", "who\nis the\r\nking ?", "who\x00is the king ?", " who is the king ? "]


def test_what_training_takes_is_taken_and_every_question_has_one_line(here, capsys, tmp_path):
    path = tmp_path / "questions.jsonl"
    content = "".join(json.dumps({"text": text, "label": "HUM"}) + "\n" for text in ODD)
    path.write_text(content)
    learned = read_questions(io.BytesIO(content.encode()), ".jsonl", {"text": "text", "label": "label"}, "x")
    assert [question.text for _, question in learned] == ODD
    for arguments in (ODD, ["--file", path]):
        lines = said(capsys, *arguments)
        assert len(lines) == len(ODD)
        assert lines[1].endswith(r"  who\nis the\r\nking ?")
        objects = [json.loads(line) for line in said(capsys, *arguments, "--json")]
        assert [found["text"] for found in objects] == ODD
    found = load(here / "models/prefix").predict(ODD)
    assert [each.text for each in found] == ODD


def test_a_label_is_one_line_and_is_never_taken_for_an_abstention(here):
    assert as_text(Prediction("who ?", "a\nb", {"a\nb": 1.0}, False), "a\nb", 1) == r"a\nb 1.000  who ?"
    found = Prediction("who ?", "?", {"?": 0.75, "a": 0.25}, False)
    assert as_text(found, "?", 2) == '"?" 0.750  a 0.250  who ?'
    assert as_text(found, None, 1) == '?  "?" 0.750  who ?'


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("x.txt", ["who is it ?", "where ?"]),
        ("x.csv", ["text,id", "who is it ?,1", "where ?,2"]),
        ("x.jsonl", ['{"text": "who is it ?"}', '{"text": "where ?"}']),
        ("x.label", ["HUM:ind who is it ?", "LOC:city where ?"]),
    ],
)
def test_lines_end_as_on_any_system_and_a_mark_of_utf8_is_no_text(here, capsys, tmp_path, name, lines, end):
    (tmp_path / name).write_text(end.join([*lines, ""]), encoding="utf-8-sig", newline="")
    found = [json.loads(line) for line in said(capsys, "--file", tmp_path / name, "--json")]
    first = len(lines) - 1
    assert [(row["line"], row["text"]) for row in found] == [(first, "who is it ?"), (first + 1, "where ?")]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_column_of_a_table_is_classified(here, capsys, tmp_path, ending):
    texts = ['who is the "king" ?', "where is\tthe dog, or\nthe cat ?", "why ?"]
    path = tmp_path / f"asked{ending}"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter="," if ending == ".csv" else "\t")
        writer.writerows([["id", "message"], *([number, text] for number, text in enumerate(texts))])
    expected = [json.loads(line) for line in said(capsys, *texts, "--json")]
    found = [json.loads(line) for line in said(capsys, "--file", path, "--column", "message", "--json")]
    assert [each.pop("line") for each in found] == [2, 3, 5]
    assert found == expected
    told = refused(capsys, "--file", path)
    assert f"asked{ending}:1: no column 'text', which --column names; columns are: id, message" in told
    path.write_text(path.read_text(encoding="utf-8-sig") + "4\n")
    assert f"asked{ending}:6: 1 fields, 2 columns; 1 such" in refused(capsys, "--file", path, "--column", "message")


def test_standard_input_is_read_in_the_format_that_is_named(here, capsys, monkeypatch):
    expected = said(capsys, "who is it ?", "where ?")
    for form, content in {
        "csv": "id,q\n1,who is it ?\n2,where ?\n",
        "jsonl": '{"q": "who is it ?"}\n{"q": "where ?"}\n',
        "tsv": "q\tid\nwho is it ?\t1\nwhere ?\t2\n",
    }.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        assert said(capsys, "--file", "-", "--column", "q", "--format", form) == expected


def test_answers_are_a_table_that_a_spreadsheet_may_open(here, capsys, tmp_path):
    path, texts = tmp_path / "asked.jsonl", ['who is "it", and why ?', "=1+1 ?", "who\ris\nit ?"]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    expected = [json.loads(line) for line in said(capsys, "--file", path, "--json")]
    for options, shown in ([], ["'=1+1 ?"]), (["--raw"], ["=1+1 ?"]):
        assert main(["predict", "--file", str(path), "--csv", *options]) == 0
        table = io.StringIO(capsys.readouterr().out, newline="")
        rows = list(csv.DictReader(table))
        assert [row["text"] for row in rows] == [texts[0], *shown, texts[2]]
        assert [(row["line"], row["label"]) for row in rows] == [
            (str(each["line"]), each["label"]) for each in expected
        ]
        for row, each in zip(rows, expected, strict=True):
            assert float(row["probability"]) == pytest.approx(max(each["probabilities"].values()), abs=1e-6)


def test_empty_lines_are_left_out_if_asked_and_the_others_keep_their_numbers(here, capsys, tmp_path):
    path = tmp_path / "asked.txt"
    path.write_text("\nwho is it ?\n \n\nwhere ?\n\n")
    assert "asked.txt:1: text is empty; 4 such line(s) to correct: 1, 3, 4, 6" in refused(capsys, "--file", path)
    found = [json.loads(line) for line in said(capsys, "--file", path, "--skip-empty", "--json")]
    assert [(each["line"], each["text"]) for each in found] == [(2, "who is it ?"), (5, "where ?")]


@pytest.mark.parametrize("bad", [b"\xff\n", b"\n"])
def test_an_invalid_line_is_refused_before_the_first_answer(here, capsys, tmp_path, monkeypatch, bad):
    path = tmp_path / "asked.txt"
    path.write_bytes(b"who is it ?\n" * 10_000 + bad)
    assert "asked.txt:10001: " in refused(capsys, "--file", path)
    with path.open() as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        assert "standard input:10001: " in refused(capsys, "-")


@pytest.mark.parametrize(
    ("closed", "told"), [("<&-", "standard input is closed; give texts"), (">&-", "standard output is closed; send it")]
)
def test_closed_streams_are_named(here, closed, told):
    command = f"{sys.executable} -m qc predict - {closed}"
    done = subprocess.run(
        command, shell=True, input="", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {told}")


def test_a_pipe_is_read_once(here, capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("who is it ?\n",))
    writer.start()
    assert said(capsys, "--file", pipe) == said(capsys, "who is it ?")
    writer.join()


@pytest.mark.parametrize("temperature", [2.5, None])
def test_a_question_of_which_the_model_is_unsure_is_not_answered(here, capsys, monkeypatch, temperature):
    texts = ["who is it ?", "where ?", "the dog"]
    asked = [*texts, "--model", "scratch", "--min-confidence"]
    plain, loaded = load("models/scratch").predict(texts), predict_command.load

    def with_temperature(*arguments):
        predictor = loaded(*arguments)
        object.__setattr__(predictor.trained, "temperature", temperature)
        return predictor

    monkeypatch.setattr(predict_command, "load", with_temperature)
    assert main(["predict", *asked, "0", "--json"]) == 0
    printed = capsys.readouterr()
    warned = "warning: models/scratch: probabilities are not calibrated, since no temperature could be fitted"
    assert printed.err.startswith(warned) if temperature is None else not printed.err
    found = [json.loads(line) for line in printed.out.splitlines()]
    for each, other in zip(found, plain, strict=True):
        assert (each["label"], each["abstained"]) == (other.label, False)
        logits = np.log(list(other.probabilities.values())) / (temperature or 1)
        expected = np.exp(logits) / np.exp(logits).sum()
        assert list(each["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    confidences = [max(each["probabilities"].values()) for each in found]
    least = np.mean(sorted(confidences)[:2])
    expected = [
        each.label if confidence >= least else None for each, confidence in zip(plain, confidences, strict=True)
    ]
    assert expected.count(None) == 1
    found = [json.loads(line) for line in said(capsys, *asked, least, "--json")]
    assert [(each["label"], each["abstained"]) for each in found] == [(label, label is None) for label in expected]
    table = csv.DictReader(said(capsys, *asked, least, "--csv"))
    assert [row["label"] for row in table] == [label or "" for label in expected]
    lines = said(capsys, *asked, least)
    assert [line.startswith("?  ") for line in lines] == [label is None for label in expected]


def test_from_a_subfolder_it_is_said_where_to_run_it(here, capsys, monkeypatch):
    monkeypatch.chdir(here / "src")
    top = f"run this from the top of the repository: cd {here}"
    assert f"models: no trained model; `dvc repro` trains them, `dvc pull` fetches them; {top}" in refused(capsys, "?")
    assert f"models/prefix: no such model; `dvc repro` trains one, `dvc pull` fetches one; {top}" in refused(
        capsys, "who ?", "--model", "prefix"
    )


def test_the_best_model_by_validation_answers(copied, capsys):
    for name, (accuracy, loss) in {"scratch": (0.8, 0.1), "prefix": (0.9, 0.3), "distilbert": (0.9, 0.2)}.items():
        path = copied / f"reports/train_{name}.json"
        write_json(path, read_json(path) | {"valid": {"accuracy": accuracy, "loss": loss}})
    asked = ["who is the king of the house", "--json"]
    assert said(capsys, *asked) == said(capsys, *asked, "--model", "distilbert")
    assert said(capsys, *asked) != said(capsys, *asked, "--model", "scratch")


def test_a_long_question_is_cut_with_a_warning(here, capsys):
    assert main(["predict", "dog " * 10_000]) == 0
    assert "warning: text 1 is longer than 12 tokens, and was cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["who ?", " "], "text 2 is empty"),
        (["who\udcff ?"], "text 1 holds"),
        (["who ?", "--top", 0], "--top: invalid value 0"),
        (["who ?", "--top", 2, "--csv"], "--top and --csv: expected one of them"),
        (["who ?", "--raw"], "--raw: expected --csv"),
        (["who ?", "--min-confidence", 1.5], "--min-confidence: invalid value 1.5"),
        (["who ?", "--file", "x"], "TEXT and --file: expected one of them"),
        (["who ?", "--column", "x"], "--column, --format and --skip-empty: expected a file or standard input"),
        (["who ?", "--skip-empty"], "--column, --format and --skip-empty: expected a file or standard input"),
        (["--file", "-", "--column", "x"], "--column: invalid value 'x'; expected a .csv, .tsv or .jsonl file, or one"),
        (["--file", "x.txt", "--column", "x"], "--column: invalid value 'x'; expected a .csv"),
        (["--file", "none.txt"], "none.txt: cannot be read: No such file"),
        (["--file", "src"], "src: cannot be read: Is a directory"),
    ],
)
def test_bad_arguments_are_refused(here, capsys, arguments, told):
    assert told in refused(capsys, *arguments)


def test_a_model_is_named_or_given_by_its_folder(here, capsys, tmp_path, monkeypatch):
    expected = said(capsys, "who ?", "--model", "prefix")
    assert said(capsys, "who ?", "--model", "models/prefix/") == expected
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "who ?", "--model", here / "models/prefix") == expected


def test_a_missing_or_foreign_model_is_refused(copied, capsys):
    assert "models/none: no such model" in refused(capsys, "who ?", "--model", "none")
    config = copied / "models/scratch/config.json"
    write_json(config, {"architectures": ["BertModel"]})
    assert "models/scratch/config.json: not a model of this version" in refused(capsys, "who ?", "--model", "scratch")
    shutil.rmtree(copied / "models")
    assert "models: no trained model" in refused(capsys, "who ?")


def test_a_missing_encoder_or_another_tokenizer_is_refused(copied, capsys, finished):
    tokenizer = copied / "data/encoders/tiny-bert/tokenizer.json"
    cased = json.loads(tokenizer.read_text())
    cased["normalizer"]["lowercase"] = False
    for content in ((finished.mirror / "tiny-mpnet/tokenizer.json").read_text(), json.dumps(cased)):
        tokenizer.write_text(content)
        write_record(tokenizer.parent)  # that the record beside it fits is no excuse
        for name in MODELS:
            assert "tiny-bert/tokenizer.json: SHA-256 " in refused(capsys, "who ?", "--model", name)
    shutil.rmtree(copied / "data/encoders/tiny-bert")
    assert "tiny-bert: no such encoder" in refused(capsys, "who ?", "--model", "distilbert")


@pytest.mark.parametrize(
    "name",
    [
        *(f"models/prefix/{name}" for name in ("config.json", "model.safetensors")),
        *(f"data/encoders/tiny-bert/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
    ],
)
@pytest.mark.parametrize("damage", [Path.unlink, make_folder])
def test_a_missing_file_is_named(copied, name, damage):
    damage(copied / name)
    with pytest.raises(QcError, match=f"{Path(name).parent}"):
        load(copied / "models/prefix")


def test_a_model_that_was_given_the_answer_is_refused(copied, capsys):
    folder = copied / "models/prefix"
    config = read_config(folder)
    config["vocabulary"]["include_fine_label"] = True
    write_config(folder, config)
    assert "trained with the fine label" in refused(capsys, "who ?", "--model", "prefix")


LONG = "where is the river of the house " * 3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_a_question_has_the_same_logits_in_any_company(here, name, mask_padding, precision, tolerance):
    predictor = load(here / "models" / name)
    if name == "scratch":
        config = replace(predictor.model.config, mask_padding=mask_padding)
        predictor.model.config = config
    asked = "who is the king ?"

    def logits(*texts):
        questions = predictor.trained.pack(predictor.tokenize(texts), [0] * len(texts))
        return predict(predictor.model, questions, precision)[texts.index(asked)]

    alone = logits(asked)
    for company in ((asked, "why ?"), ("why ?", asked), (asked, LONG), (LONG, "a dog", asked)):
        torch.testing.assert_close(logits(*company), alone, atol=tolerance, rtol=0)
