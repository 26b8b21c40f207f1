"""`qc predict` and the predictor behind it, on the models of a finished project."""

import csv
import io
import json
import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qc import load
from qc.__main__ import main
from qc.commands.predict import as_text
from qc.errors import QcError
from qc.files import read_csv, read_json, write_json
from qc.inference.logits import predict
from qc.inference.model_folder import read_config, write_config
from qc.inference.predictor import Prediction
from qc.inference.texts import read_texts
from qc.questions.formats import parse_questions
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
        [float(row[f"{name}_probability"]) for row in rows], abs=2e-6
    )


def test_probabilities_sum_to_one_and_do_not_depend_on_the_company(here):
    predictor = load(here / "models/distilbert")
    texts = ["who is the king ?", "many a dog in the river of the house is a cat ?", "where ?"]
    together = predictor.predict(texts)
    assert predictor.classes == sorted(CLASSES)
    for text, found in zip(texts, together, strict=True):
        [alone] = predictor.predict([text])
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert alone.label == found.label
        assert list(alone.probabilities.values()) == pytest.approx(list(found.probabilities.values()), abs=1e-5)
    assert predictor.predict([]) == []


def test_questions_are_lower_cased_as_in_training(here):
    predictor = load(here / "models/scratch")
    [lower], [upper] = predictor.predict(["who is the king"]), predictor.predict(["WHO is the King"])
    assert lower.probabilities == upper.probabilities


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
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)


def test_a_file_and_standard_input_hold_a_question_a_line(here, capsys, tmp_path, monkeypatch):
    questions = ["who is it ?", 'where is the "dog" ?', "why — ünïcode ?"]
    plain, objects = tmp_path / "questions.txt", tmp_path / "questions.jsonl"
    plain.write_text("\n".join(questions) + "\n", encoding="utf-8")
    objects.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in questions))
    expected = said(capsys, *questions)
    assert len(expected) == 3
    assert said(capsys, "--file", plain) == expected
    assert said(capsys, "--file", objects) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\r\n".join(questions).encode())))
    assert said(capsys) == expected


def test_a_dash_means_standard_input(here, capsys, monkeypatch):
    expected = said(capsys, "who is it ?")
    for arguments in (["-"], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"who is it ?\n")))
        assert said(capsys, *arguments) == expected


ODD = ["who\x0bis the\x0cking ?", "who\nis the\r\nking ?", "who\x00is the king ?", " who is the king ? "]


def test_what_training_takes_is_taken_and_every_question_has_one_line(here, capsys, tmp_path):
    path = tmp_path / "questions.jsonl"
    content = "".join(json.dumps({"text": text, "label": "HUM"}) + "\n" for text in ODD)
    path.write_text(content)
    learned = [
        q.text for q in parse_questions(io.BytesIO(content.encode()), ".jsonl", {"text": "text", "label": "label"}, "x")
    ]
    assert learned == ODD
    for arguments in (ODD, ["--file", path]):
        lines = said(capsys, *arguments)
        assert len(lines) == len(ODD)
        assert lines[1].endswith(r"  who\nis the\r\nking ?")
        objects = [json.loads(line) for line in said(capsys, *arguments, "--json")]
        assert [found["text"] for found in objects] == ODD
    found = load(here / "models/prefix").predict(ODD)
    assert [each.text for each in found] == ODD


def test_a_label_that_holds_a_line_end_is_one_line(here):
    assert as_text(Prediction("who ?", "a\nb", {"a\nb": 1.0}, False), "a\nb", 1) == r"a\nb 1.000  who ?"


@pytest.mark.parametrize("name", ["asked.txt", "asked.jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_question(here, capsys, tmp_path, name):
    text = "who is it ?" if name == "asked.txt" else json.dumps({"text": "who is it ?"})
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert said(capsys, "--file", tmp_path / name) == said(capsys, "who is it ?")


def test_a_label_file_is_not_taken_for_a_list_of_questions(here, capsys, tmp_path):
    (tmp_path / "train.label").write_text("HUM:ind who is it ?\n")
    assert "train.label: holds labels, too" in refused(capsys, "--file", tmp_path / "train.label")


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
    assert (
        "asked" + ending + ":1: --column: invalid value 'text'; expected a column that is there once; columns are:"
        in (refused(capsys, "--file", path))
    )
    path.write_text(path.read_text(encoding="utf-8-sig") + "4\n")
    assert f"asked{ending}:6: 1 fields; expected 2" in refused(capsys, "--file", path, "--column", "message")


def test_answers_are_a_table_if_asked(here, capsys, tmp_path):
    path = tmp_path / "asked.txt"
    path.write_text('who is "it", and why ?\nwhere ?\n')
    rows = list(csv.DictReader(said(capsys, "--file", path, "--csv")))
    expected = [json.loads(line) for line in said(capsys, "--file", path, "--json")]
    assert [(row["line"], row["text"], row["label"]) for row in rows] == [
        (str(each["line"]), each["text"], each["label"]) for each in expected
    ]
    for row, each in zip(rows, expected, strict=True):
        assert float(row["probability"]) == pytest.approx(max(each["probabilities"].values()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("asked.txt", "\nwho is it ?\n \n\nwhere ?\n\n"),
        ("asked.csv", "text\nwho is it ?\n\n \nwhere ?\n"),
        ("asked.jsonl", '\n{"text": "who is it ?"}\n\n{"text": ""}\n{"text": "where ?"}\n'),
    ],
)
def test_empty_lines_are_left_out_if_asked_and_the_others_keep_their_numbers(here, capsys, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    refused(capsys, "--file", path)
    found = [json.loads(line) for line in said(capsys, "--file", path, "--skip-empty", "--json")]
    assert [(each["line"], each["text"]) for each in found] == [(2, "who is it ?"), (5, "where ?")]


def test_a_file_is_read_as_a_stream_and_an_invalid_line_is_refused_before_the_first_answer(here, capsys, tmp_path):
    path = tmp_path / "asked.txt"
    path.write_bytes(b"who is it ?\n" * 10_000 + b"\xff\n")
    assert next(read_texts(path)) == (1, "who is it ?")
    assert "asked.txt:10001: byte 1 is 0xff" in refused(capsys, "--file", path)


def test_a_pipe_is_read_once(here, capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("who is it ?\n",))
    writer.start()
    assert said(capsys, "--file", pipe) == said(capsys, "who is it ?")
    writer.join()


def test_a_question_of_which_the_model_is_unsure_is_answered_with_a_question_mark(copied, capsys):
    texts = ["who is it ?", "where ?", "the dog"]
    scores = read_json(Path("reports/test.json"))
    scores["scratch"]["calibrated"]["temperature"] = 2.5
    write_json(Path("reports/test.json"), scores)
    asked = [*texts, "--model", "scratch", "--json", "--min-confidence"]
    found = [json.loads(line) for line in said(capsys, *asked, 0)]
    predictor = load("models/scratch")
    plain = predictor.predict(texts)
    for each, other in zip(found, plain, strict=True):
        assert each["label"] == other.label
        logits = np.log(list(other.probabilities.values())) / 2.5
        expected = np.exp(logits) / np.exp(logits).sum()
        assert list(each["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    confidences = sorted(max(each["probabilities"].values()) for each in found)
    least = (confidences[0] + confidences[1]) / 2
    labels = [json.loads(line)["label"] for line in said(capsys, *asked, least)]
    assert labels.count("?") == 1
    assert labels == [each["label"] if max(each["probabilities"].values()) >= least else "?" for each in found]
    [line] = said(capsys, "the dog", "--model", "scratch", "--min-confidence", 1)
    assert line.startswith("?  ")
    assert "--min-confidence: invalid value 1.5" in refused(capsys, "who ?", "--min-confidence", 1.5)


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
    ("content", "told"),
    [
        (b"who is it ?\n\nwhere ?\n", "asked.txt:2: is empty"),
        (b"who\nis \xff it\n", "asked.txt:2: byte 4 is 0xff, which is not UTF-8"),
        (bytes(range(256)), "asked.txt:2: byte 118 is 0x80, which is not UTF-8"),
        (b"", "asked.txt: no text"),
    ],
)
def test_what_is_no_question_is_refused_by_line(here, capsys, tmp_path, content, told):
    path = tmp_path / "asked.txt"
    path.write_bytes(content)
    assert told in refused(capsys, "--file", path)


@pytest.mark.parametrize(
    ("line", "told"), [("{", "1: not JSON"), ("[1]", "1: expected an object"), ('{"text": 1}', "1: expected an object")]
)
def test_a_broken_object_is_refused_by_line(here, capsys, tmp_path, line, told):
    path = tmp_path / "asked.jsonl"
    path.write_text(line)
    assert f"asked.jsonl:{told}" in refused(capsys, "--file", path)


def test_bad_arguments_are_refused(here, capsys, tmp_path):
    assert "text 2: is empty" in refused(capsys, "who ?", " ")
    assert "--top: invalid value 0" in refused(capsys, "who ?", "--top", 0)
    assert "TEXT and --file: expected one of them" in refused(capsys, "who ?", "--file", "x")
    assert "No such file" in refused(capsys, "--file", tmp_path / "none.txt")
    assert "text 1: holds" in refused(capsys, "who\udcff ?")
    with pytest.raises(QcError, match="text 2 is empty"):
        load(here / "models/prefix").predict(["who ?", "\t"])


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


def test_labels_follow_the_probabilities(here):
    for found in load(here / "models/prefix").predict([f"{word} is it" for word in CLASSES.values()]):
        assert found.label == list(found.probabilities)[int(np.argmax(list(found.probabilities.values())))]


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
