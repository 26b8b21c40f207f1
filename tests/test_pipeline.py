"""The pipeline under DVC, for real, with tiny data: what it writes, what reruns, what is refused."""

import csv
import json
import re
import shutil
import signal
import sys

import psutil
import pytest
from safetensors.torch import load_file

from qc.commands.tables import seed_table
from qc.config.settings import Settings
from qc.evaluation import baselines
from qc.evaluation.baselines import predict_baselines
from qc.files import read_csv, read_json
from qc.questions.tables import QuestionTable
from qc.schema import read_yaml
from stages import evaluate
from tests.conftest import CLASSES, STAGES, VOCABULARY, in_soak, outputs, pin

MODELS = ("scratch", "prefix", "distilbert")
SCREEN = 160  # columns

TRAINING = ["train_scratch", "train_prefix", "train_distilbert"]


def test_a_second_run_runs_nothing(finished):
    assert finished.repro() == []
    assert finished.run("git", "status", "--porcelain") == ""


def test_a_checkout_that_turns_line_ends_is_up_to_date(finished, tmp_path):
    project = finished.at(tmp_path / "windows")
    finished.run("git", "clone", "--quiet", "--config", "core.autocrlf=true", ".", str(project.root))
    shutil.copytree(finished.root / ".dvc/cache", project.root / ".dvc/cache")
    project.run("dvc", "checkout")
    assert project.repro() == []


def test_the_tokenized_questions_are_the_label_file(finished):
    table = QuestionTable.read(finished.root / "data/tokenized/tiny-bert/questions.parquet")
    lines = (finished.root / "data/raw/train.label").read_text(encoding="latin-1").splitlines()
    names = [":".join(pair) for pair in table.class_names.fine_classes]
    assert [f"{names[fine]} {text}" for fine, text in zip(table.fine_labels, table.texts, strict=True)] == lines
    assert [sorted(CLASSES)[label] for label in table.labels] == [line.partition(":")[0] for line in lines]
    assert table.columns["id"].to_pylist() == list(range(len(lines)))
    assert not any(table.columns["official"].to_pylist())
    for text, row in zip(table.texts, table.input_ids.to_pylist(), strict=True):
        assert " ".join(VOCABULARY[token] for token in row) == f"[CLS] {text} [SEP]"


def test_metrics_are_the_few_numbers_that_people_compare(finished):
    report = read_json(finished.root / "reports/test.json")
    for name in (*MODELS, "majority", "tfidf_svm"):
        scores = read_json(finished.root / f"metrics/test_{name}.json")
        assert list(scores) == (["accuracy", "macro_f1", "loss", "ece"] if name in MODELS else ["accuracy"])
        assert scores.items() <= (report[name] if name in MODELS else report["baselines"][name]).items()
    for name in MODELS:
        valid = read_json(finished.root / f"reports/train_{name}.json")["valid"]
        assert read_json(finished.root / f"metrics/train_{name}.json") == {"valid_accuracy": valid["accuracy"]}


def test_the_report_of_the_test_scores_holds_every_model_baseline_and_comparison(finished):
    report = read_json(finished.root / "reports/test.json")
    assert list(report) == ["n_test", *MODELS, "baselines", "comparisons"]
    for name in MODELS:
        assert all(list(report[name][score]) == sorted(CLASSES) for score in ("f1", "precision", "recall"))
        assert report[name]["accuracy_low"] <= report[name]["accuracy"] <= report[name]["accuracy_high"]
        config = read_json(finished.root / f"models/{name}/config.json")
        assert report[name]["calibrated"]["temperature"] == config["temperature"]
    assert list(report["baselines"]) == ["majority", "tfidf_svm"]
    assert list(report["comparisons"]) == [
        "prefix_vs_scratch", "distilbert_vs_scratch", "distilbert_vs_prefix",
        "scratch_vs_tfidf_svm", "prefix_vs_tfidf_svm", "distilbert_vs_tfidf_svm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "scores", "predictions"),
    [("test", "test.json", "predictions.csv"), ("valid", "validation.json", "validation_predictions.csv")],
)
def test_predictions_agree_with_the_scores(finished, split, scores, predictions):
    rows = read_csv(finished.root / "metrics" / predictions)
    report = read_json(finished.root / "reports" / scores)
    asked = QuestionTable.read(finished.root / f"data/split/tiny-bert/{split}.parquet")
    assert report[f"n_{split}"] == len(rows)
    assert [int(row["id"]) for row in rows] == asked.columns["id"].to_pylist()
    assert [row["text"] for row in rows] == asked.texts
    assert [row["label"] for row in rows] == [sorted(CLASSES)[label] for label in asked.labels]
    for name in MODELS:
        right = sum(row[name] == row["label"] for row in rows)
        assert right / len(rows) == pytest.approx(report[name]["accuracy"], abs=1e-6)
        assert all(1 / len(CLASSES) <= float(row[f"{name}_probability"]) <= 1 for row in rows)
        if split == "valid":  # predicted as in training
            trained = read_json(finished.root / f"reports/train_{name}.json")["valid"]
            assert {key: report[name][key] for key in trained} == pytest.approx(trained, abs=2e-6)
    right = sum(row["tfidf_svm"] == row["label"] for row in rows)
    assert right / len(rows) == pytest.approx(report["baselines"]["tfidf_svm"]["accuracy"], abs=1e-6)


def test_the_tables_of_the_plots_agree_with_the_predictions(finished):
    predictions = read_csv(finished.root / "metrics/predictions.csv")
    scores = read_json(finished.root / "reports/test.json")
    mistakes = read_csv(finished.root / "plots/mistakes.csv")
    reliability = read_csv(finished.root / "plots/reliability.csv")
    for name in MODELS:
        wrong = {row["id"]: row for row in predictions if row[name] != row["label"]}
        own = [row for row in mistakes if row["model"] == name]
        assert len(own) == min(20, len(wrong))
        assert [float(row["probability"]) for row in own] == sorted(
            (float(r["probability"]) for r in own), reverse=True
        )
        assert all(wrong[row["id"]][name] == row["predicted"] != row["label"] for row in own)
        bins = [row for row in reliability if row["model"] == name]
        assert sum(int(row["questions"]) for row in bins) == len(predictions)
        gaps = (abs(float(b["accuracy"]) - float(b["confidence"])) * int(b["questions"]) for b in bins)
        assert sum(gaps) / len(predictions) == pytest.approx(scores[name]["ece"], abs=1e-5)
    f1 = {(row["model"], row["class"]): float(row["f1"]) for row in read_csv(finished.root / "plots/f1.csv")}
    assert f1 == {(name, class_name): scores[name]["f1"][class_name] for name, class_name in f1}
    assert len(f1) == 3 * len(CLASSES)


def test_the_learning_curve_has_a_row_an_epoch(finished):
    for name in MODELS:
        rows = read_csv(finished.root / f"plots/train_{name}.csv")
        metrics = read_json(finished.root / f"reports/train_{name}.json")
        assert [int(row["epoch"]) for row in rows] == [1, 2]
        best = rows[metrics["best_epoch"] - 1]
        assert float(best["valid_accuracy"]) == metrics["valid"]["accuracy"]


def test_running_every_stage_again_leaves_the_lock_file_as_it_was(finished):
    before = outputs(finished)
    assert finished.repro("--force") == STAGES
    assert finished.run("git", "status", "--porcelain") == ""
    assert outputs(finished) == before


@pytest.fixture
def stale(restored):
    """The stages that DVC would run, besides those that only follow from them."""
    return lambda: [name for name in STAGES if name in json.loads(restored.run("dvc", "status", "--json"))]


def test_a_change_makes_the_stages_out_of_date_that_depend_on_it_and_no_others(restored, stale):
    for key, value, stages in (
        ("train_prefix.prefix_length", 3, ["fetch", "train_prefix", "evaluate"]),
        ("split.seed", 2, ["fetch", "split"]),
        ("class_weights", "balanced", ["fetch", *TRAINING, "evaluate"]),
        ("train_scratch.max_length", 6, ["fetch", "split", "train_scratch", "evaluate"]),
        ("seed", 7, ["fetch", *TRAINING, "evaluate"]),
    ):
        restored.set(key, value)
        assert stale() == stages, key
        restored.run("git", "checkout", "--quiet", "params.yaml")
    for name, stages in (
        ("params.yaml", ["fetch"]),
        ("src/qc/models/prefix.py", ["train_prefix", "evaluate"]),
        ("requirements-dev.txt", []),
        ("requirements.txt", STAGES),
    ):
        path = restored.root / name
        path.write_text(f"# a change\n{path.read_text()}")
        assert stale() == stages, name
        restored.run("git", "checkout", "--quiet", name)


def test_a_model_may_keep_another_number_of_tokens(restored):
    restored.set("train_scratch.max_length", 6)
    restored.set("train_scratch.mask_padding", "false")
    for stage in ("split", "train_scratch"):
        restored.stage(stage)
    config = read_json(restored.root / "models/scratch/config.json")
    assert config["max_length"] == config["sizes"]["max_length"] == 6
    assert read_json(restored.root / "models/prefix/config.json")["max_length"] == 12
    assert "longer than 6 tokens, and was cut" in restored.run("qc", "predict", "--model", "scratch", "who " * 7)


def test_going_back_takes_results_from_the_run_cache(restored):
    restored.set("train_prefix.epochs", 1)
    assert restored.repro() == ["fetch", "train_prefix", "evaluate"]
    restored.set("train_prefix.epochs", 2)
    assert restored.repro() == ["fetch"]
    assert restored.run("git", "status", "--porcelain") == ""


@pytest.mark.soak
def test_an_encoder_that_is_fetched_too_reruns_nothing_else(restored):
    restored.set("fetch.encoders", "[tiny-bert, tiny-mpnet]")
    assert restored.repro() == ["fetch", "tokenize", "split"]
    restored.set("train_prefix.encoder", "tiny-mpnet")
    restored.set("train_prefix.prefix_form", "vector")  # MPNet takes no keys and values
    assert restored.repro() == ["fetch", "split", "train_prefix", "evaluate"]
    config = read_json(restored.root / "models/prefix/config.json")
    assert config["encoder"] == config["vocabulary"]["tokenizer"] == "tiny-mpnet"
    assert config["vocabulary"]["pad_id"] == 1
    assert config["files"].keys() == {
        "model.safetensors", *(f"tiny-mpnet/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json"))
    }  # fmt: skip
    assert read_json(restored.root / "models/distilbert/config.json")["vocabulary"]["tokenizer"] == "tiny-bert"
    assert restored.run(sys.executable, "-m", "qc", "predict", "--model", "prefix", "who is it")


@pytest.mark.soak
def test_two_encoder_families_serve_both_models(restored):
    restored.set("fetch.encoders", "[tiny-mpnet, tiny-distilbert]")
    restored.set("train_scratch.tokenizer", "tiny-mpnet")
    restored.set("train_prefix.encoder", "tiny-distilbert")
    restored.set("train_distilbert.encoder", "tiny-mpnet")
    restored.repro()
    for name, encoder in (("scratch", "tiny-mpnet"), ("prefix", "tiny-distilbert"), ("distilbert", "tiny-mpnet")):
        assert read_json(restored.root / f"models/{name}/config.json")["vocabulary"]["tokenizer"] == encoder
        split = pin(restored.root / f"data/split/{encoder}/train.parquet")["sha256"]
        assert split in (restored.root / f"reports/cards/{name}.md").read_text()
    assert not (restored.root / "data/encoders/tiny-bert").exists()


@pytest.mark.parametrize("trainable", [0, "all"])
@pytest.mark.soak
def test_the_head_alone_is_trained_or_all_there_is(restored, trainable):
    restored.set("train_distilbert.trainable_layers", trainable)
    assert restored.repro() == ["fetch", "train_distilbert", "evaluate"]
    tensors = load_file(restored.root / "models/distilbert/model.safetensors")
    assert any("embeddings" in name for name in tensors) == (trainable == "all")
    assert all(name.startswith("head.") for name in tensors) == (trainable == 0)


def test_without_prefix_the_head_alone_is_trained(restored):
    restored.set("train_prefix.prefix_length", "null")
    restored.set("train_prefix.fine_weight", 0)
    restored.stage("train_prefix")
    classes, width = 5, 16
    trainable = read_json(restored.root / "reports/train_prefix.json")["parameters"]["trainable"]
    assert trainable == classes * width + classes


def test_an_experiment_runs_and_is_listed(restored):
    restored.run("dvc", "exp", "run", "--name", "longer-prefix", "-S", "train_prefix.prefix_length=4")
    shown = json.loads(restored.run("dvc", "exp", "show", "--json"))
    assert "longer-prefix" in json.dumps(shown)
    assert "train_prefix.prefix_length" in restored.run("dvc", "params", "diff")
    assert "metrics/train_prefix.json" in restored.run("dvc", "metrics", "diff", "--all")
    text, table, rows = (restored.run("qc", "experiments", "--format", form) for form in ("text", "markdown", "csv"))
    listed = {row["experiment"]: row for row in csv.DictReader(rows.splitlines())}
    assert list(listed) == sorted(listed, key=lambda name: -sum(float(listed[name][f"{m} valid"]) for m in MODELS))
    assert listed["longer-prefix"]["changed"] == "train_prefix.prefix_length=4"
    assert listed["main"]["changed"] == ""
    for name in MODELS:
        scores = read_json(restored.root / f"metrics/test_{name}.json")
        assert (
            listed["workspace"][f"{name} test"]
            == listed["longer-prefix"][f"{name} test"]
            == f"{scores['accuracy']:.3f}"
        )
        valid = read_json(restored.root / f"metrics/train_{name}.json")["valid_accuracy"]
        assert listed["longer-prefix"][f"{name} valid"] == f"{valid:.3f}"
    for output in (text, table, restored.run("dvc", "metrics", "show"), restored.run("dvc", "metrics", "diff")):
        assert max(map(len, output.splitlines())) <= SCREEN
    shown = restored.run("dvc", "exp", "show", "--no-pager", "--only-changed", "--drop", "(ece|loss|macro_f1|Created)$")
    assert max(map(len, shown.splitlines())) <= SCREEN
    restored.run("dvc", "exp", "remove", "longer-prefix")


@pytest.mark.soak
def test_seeds_are_run_as_experiments_and_the_workspace_stays_as_it_is(restored):
    said = restored.run("qc", "seeds", "1", "2")
    seeds = read_json(restored.root / "reports/seeds.json")
    assert list(seeds) == ["1", "2"]
    scores = read_json(restored.root / "metrics/test_prefix.json")
    assert seeds["1"]["prefix"]["accuracy"] == scores["accuracy"]
    assert seeds["1"]["scratch"]["loss"] != seeds["2"]["scratch"]["loss"]
    assert restored.run("git", "status", "--porcelain") == "?? reports/seeds.json\n"
    assert seed_table(seeds) in said
    mean = sum(seeds[seed]["scratch"]["accuracy"] for seed in seeds) / 2
    assert f"**{mean:.3f}**" in said.splitlines()[-3]
    assert {"seed-1", "seed-2"} <= set(restored.run("dvc", "exp", "list", "--name-only").split())
    assert "invalid value 1 1" in restored.run("qc", "seeds", "1", "1", status=2)


@pytest.mark.soak
def test_seeds_that_are_stopped_leave_nothing_running(restored, tmp_path):
    restored.set("train_scratch.epochs", 100_000)
    restored.set("train_scratch.patience", 100_000)
    process = restored.start(tmp_path / "log", "qc", "seeds", "1", "2")
    while "trainable parameters" not in (tmp_path / "log").read_text():
        assert process.poll() is None, (tmp_path / "log").read_text()
    stopped = psutil.Process(process.pid).children(recursive=True)
    assert any("stages.train_scratch" in process.cmdline() for process in stopped)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(stopped, timeout=60)
    assert not alive
    assert "Traceback" not in (tmp_path / "log").read_text()


METRICS = ("metrics/test_prefix.json", "metrics/test_tfidf_svm.json", "metrics/train_prefix.json")


def drawn(project, *command):
    """The points of each figure on the page that `dvc plots` makes, by the figure's title."""
    project.run("dvc", "plots", *command, "--out", "dvc_plots")
    page = (project.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert "<DVC_METRIC" not in page
    figures = {}
    for start in re.finditer(r"var spec = ", page):
        spec, _ = json.JSONDecoder().raw_decode(page, start.end())
        if not spec:  # a report, which is no figure
            continue
        title = spec["title"] if isinstance(spec["title"], str) else spec["title"]["text"]
        figures[title] = spec["data"]["values"]
    return figures


def test_metrics_and_plots_are_shown(finished):
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json"))[""]["data"]
    for path in METRICS:
        assert shown[path]["data"] == read_json(finished.root / path)
    figures = drawn(finished, "show")
    names = ("scratch", "prefix", "distilbert")
    curves = {name: read_csv(finished.root / f"plots/train_{name}.csv") for name in names}
    for title, columns in (("loss by epoch", 2), ("validation accuracy by epoch", 1)):
        assert len(figures.pop(title)) == columns * sum(map(len, curves.values()))
    for name, rows in curves.items():
        accuracies = [float(point["valid_accuracy"]) for point in figures.pop(f"validation accuracy of {name}")]
        assert accuracies == [float(row["valid_accuracy"]) for row in rows]
    for split, file in (("", "predictions"), (", validation", "validation_predictions")):
        rows = read_csv(finished.root / f"metrics/{file}.csv")
        for name in names if not split else ("distilbert",):
            points = figures.pop(f"confusion of {name}{split}")
            pairs = sorted((point["label"], point[name]) for point in points)
            assert pairs == sorted((row["label"], row[name]) for row in rows)
    for title, file in (
        ("F1 by class", "f1"),
        ("the most confident mistakes", "mistakes"),
        ("reliability, test questions in 15 bins of confidence", "reliability"),
        ("accuracy by coverage, validation, calibrated", "coverage"),
    ):
        assert len(figures.pop(title)) == len(read_csv(finished.root / f"plots/{file}.csv"))
    assert not figures
    both = drawn(finished, "diff", "HEAD")
    assert {point["rev"] for point in both["F1 by class"]} == {"HEAD", "workspace"}
    assert "train_distilbert" in finished.run("dvc", "dag")


def test_a_bad_value_is_refused_by_every_stage_before_anything_runs(restored):
    before = outputs(restored)
    restored.set("train_scratch.hidden_size", 15)
    restored.set("split.test", 0.95)
    for stage in STAGES:
        output = restored.stage(stage, status=1)
        assert output.startswith("error: ")
        assert "train_scratch.hidden_size: invalid value 15; expected multiple of 2" in output
        assert "split.test: invalid value 0.95; expected less than 0.9" in output
        assert "Traceback" not in output
    assert outputs(restored) == before


BAD_VALUES = {"seed": "-1", "fetch.train": "none.label", "train_prefix.encoder": "none"}


@pytest.mark.parametrize("way", in_soak(["repro", "exp run"], but="repro"))
def test_dvc_refuses_a_bad_value_before_it_removes_an_output(restored, way):
    before = outputs(restored)
    for key, value in BAD_VALUES.items():
        if way == "repro":
            restored.set(key, value)
            output = restored.run("dvc", "repro", status=255)
        else:
            output = restored.run("dvc", "exp", "run", "-S", f"{key}={value}", status=255)
        [told] = [line for line in output.splitlines() if line.startswith("error: ")]
        assert told.startswith("error: params.yaml:")
        assert f"{key}: " in told
        restored.run("git", "checkout", "--quiet", "params.yaml")
    assert outputs(restored) == before


def test_class_weights_reach_the_baseline(restored, monkeypatch):
    monkeypatch.chdir(restored.root)
    restored.set("class_weights", "balanced")
    asked = []

    def watched(*texts, **given):
        asked.append(given)
        return predict_baselines(*texts, **given)

    monkeypatch.setattr(baselines, "predict_baselines", watched)
    evaluate.main(read_yaml(Settings, restored.params, "params.yaml"))
    assert asked == [{"class_weights": "balanced"}]


def test_an_encoder_with_fewer_word_vectors_than_its_tokenizer_has_tokens_is_refused(restored):
    tokenizer = restored.root / "data/encoders/tiny-bert/tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["vocab"]["new"] = len(content["model"]["vocab"])
    tokenizer.write_text(json.dumps(content))
    for stage in ("tokenize", "split"):
        restored.stage(stage)
    output = restored.stage("train_prefix", status=1)
    assert f"its tokenizer has {len(VOCABULARY) + 1} ids, its config.json {len(VOCABULARY)};" in output


def test_what_an_encoder_does_not_have_is_refused(restored):
    for key, value, expected in (
        ("train_distilbert.trainable_layers", 4, "at most 3"),
        ("train_prefix.prefix_layers", 4, "at most 3"),
        ("max_length", 39, "1 to 38"),  # a late prefix takes no positions
    ):
        restored.set("train_prefix.prefix_layers", 1)
        restored.set(key, value)
        told = f"params.yaml: {key}: invalid value {value}; expected {expected}"
        stage = key.partition(".")[0] if "." in key else "train_prefix"
        assert told in restored.stage(stage, status=1)
    restored.set("train_prefix.prefix_layers", "all")
    restored.set("train_prefix.prefix_form", "vector")  # keys and values take no positions
    assert "max_length: invalid value 39; expected 1 to 36" in restored.stage("train_prefix", status=1)


def test_malformed_lines_are_refused_and_nothing_is_written(restored):
    before = outputs(restored)
    path = restored.root / "data/raw/train.label"
    path.write_bytes(path.read_bytes() + b"no label\n")
    output = restored.stage("tokenize", status=1)
    assert "error: data/raw/train.label:151: 'no label' is not 'COARSE:fine question'" in output
    assert {**outputs(restored), "data/raw/train.label": 0} == {**before, "data/raw/train.label": 0}
