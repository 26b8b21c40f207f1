"""A fourth model through the registry alone: trained, saved, evaluated, drawn and reported."""

from torch import nn

from qc.commands import report
from qc.commands.cross_validation import cross_validate
from qc.config.settings import Settings
from qc.files import read_csv, read_json
from qc.inference.predictor import load
from qc.models.common import Classifier, HierarchicalHead, masked_mean
from qc.models.parameters import TrainingConfig
from qc.models.registry import MODELS, ModelType
from qc.paths import Folders
from qc.schema import read_yaml
from qc.training.run import run_training
from stages import evaluate
from tests.conftest import Project

TOY = ModelType(
    "bag of words",
    "The mean of word vectors, and a linear layer.",
    "tests.test_registry:ToyTrainingConfig",
    "tests.test_registry:ToyClassifier",
)


class ToyTrainingConfig(TrainingConfig):
    """The section train_toy."""

    size: int
    tokenizer: str

    @property
    def tokenizer_name(self):
        return self.tokenizer


class ToySettings(Settings):
    """params.yaml with a fourth model."""

    train_toy: ToyTrainingConfig


class ToyClassifier(Classifier):
    """The mean of word vectors, and a linear layer."""

    special_tokens = False

    def __init__(self, encoder, vocab_size, size, classes, coarse_of):
        super().__init__()
        self.sizes = {"vocab_size": vocab_size, "size": size, "classes": classes, "coarse_of": list(coarse_of)}
        self.embedding = nn.Embedding(vocab_size, size)
        self.head = HierarchicalHead(size, classes, coarse_of)

    @classmethod
    def create(cls, config, task, encoder):
        return cls(encoder, task.vocab_size, config.size, task.classes, task.coarse_of)

    @property
    def output_layer(self):
        return self.head

    def features(self, input_ids, mask):
        return self.embedding(input_ids)

    def classify(self, features, mask):
        return self.head(masked_mean(features, mask))


def test_a_fourth_model_is_trained_evaluated_drawn_and_reported(finished, tmp_path, monkeypatch):
    project: Project = finished.copy(tmp_path / "project")
    monkeypatch.chdir(project.root)
    monkeypatch.setitem(MODELS, "toy", TOY)
    content = read_yaml(Settings, project.params, "params.yaml").model_dump(mode="json")
    shared = {key: content["train_scratch"][key] for key in TrainingConfig.model_fields}
    section = {**shared, "size": 8, "tokenizer": "tiny-bert", "epochs": 40, "patience": 40, "learning_rate": 5e-2}
    settings = ToySettings.model_validate({**content, "train_toy": section})

    run_training("toy", settings, Folders())
    trained = read_json(project.root / "reports/train_toy.json")
    assert trained["valid"]["accuracy"] > 0.9
    evaluate.main(settings)
    scores = read_json(project.root / "reports/test.json")
    assert read_json(project.root / "metrics/test_toy.json")["accuracy"] == scores["toy"]["accuracy"]
    assert scores["toy"]["accuracy"] > 0.8
    assert {"toy_vs_scratch", "toy_vs_prefix", "toy_vs_distilbert", "toy_vs_tfidf_svm"} <= scores["comparisons"].keys()
    assert "toy" in read_csv(project.root / "metrics/predictions.csv")[0]
    assert {row["model"] for row in read_csv(project.root / "plots/reliability.csv")} == set(MODELS)
    assert "The mean of word vectors" in (project.root / "reports/cards/toy.md").read_text()
    assert load("models/toy").predict(["who is it"])[0].label == "HUM"
    folds = cross_validate("toy", {"toy": settings}, Folders(), 2, [1])["toy"]
    assert folds.accuracy > 0.8

    monkeypatch.setattr(report, "load_settings", lambda: settings)
    assert report.run(None) == 0
    page = (project.root / "report/index.html").read_text()
    assert "toy: bag of words" in page
    assert 'aria-label="confusion matrix of toy"' in page
    for figure in ("validation accuracy by epoch", "reliability diagram"):
        assert page.partition(f'aria-label="{figure}"')[2].partition("</svg>")[0].count(">toy<") == 1
