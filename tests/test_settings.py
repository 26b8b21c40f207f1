"""params.yaml: everything that is not possible is refused by name."""

import pytest

from qc.config.settings import Settings
from qc.errors import QcError
from qc.schema import read_yaml
from tests.conftest import ROOT

PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")


def changed(key, value):
    """params.yaml with one line changed; `value` None removes it."""
    *section, name = key.split(".")
    lines = PARAMS.splitlines()
    start = lines.index(f"{section[0]}:") + 1 if section else 0
    indent = "  " if section else ""
    index = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{indent}{name}:"))
    lines[index : index + 1] = [] if value is None else [f"{indent}{name}: {value}"]
    return "\n".join(lines)


def check(text, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(Settings, path, "params.yaml")


def test_the_committed_file_is_valid(tmp_path):
    assert check(PARAMS, tmp_path).tokenize.include_fine_label is False


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", "true", "integer"),
        ("seed", "one", "integer"),
        ("threads", "0", "greater than or equal to 1"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("precision", "fp16", "'auto', 'fp32', 'bf16' or 'portable'"),
        ("max_length", "1.5", "integer"),
        ("fetch.train", "../secrets", "a path or address that ends in .label, .csv, .tsv, .jsonl"),
        ("fetch.train", "file:///etc/passwd.csv", "http:// or https://"),
        ("fetch.test_sha256", "'12'", "match pattern"),
        ("fetch.columns", "{text: a, label: b, fine: a}", "three different columns"),
        ("fetch.encoders", "[hub:owner/name@main]", "a commit's 40 hex digits"),
        ("fetch.encoders", "[hub:name]", "a commit's 40 hex digits"),
        ("fetch.encoders", "[.hidden]", "begins with a letter or digit"),
        ("fetch.encoders", "all-MiniLM-L6-v2", "list"),
        ("fetch.encoders", "[all-MiniLM-L6-v2, all-MiniLM-L6-v2]", "each encoder named once"),
        ("train_scratch.tokenizer", "bert-base-uncased", "an encoder of fetch.encoders: all-MiniLM-L6-v2"),
        ("tokenize.lowercase", '"yes"', "boolean"),
        ("split.valid", "0", "greater than 0"),
        ("split.test", "0.95", "less than 0.9"),
        ("train_scratch.hidden_size", "130", "a multiple of heads"),
        ("train_scratch.hidden_size", "3", "multiple of 2"),
        ("train_scratch.norm", "middle", "'post' or 'pre'"),
        ("train_scratch.dropout", "1.0", "less than 1"),
        ("train_scratch.betas", "[0.9]", "at least 2 items"),
        ("train_scratch.betas", "[0.9, 1.5]", "less than 1"),
        ("train_scratch.learning_rate", ".nan", "finite"),
        ("train_scratch.learning_rate", "0", "greater than 0"),
        ("train_scratch.epochs", "0", "greater than or equal to 1"),
        ("train_scratch.clip_norm", "-1", "greater than 0"),
        ("train_scratch.label_smoothing", "1", "less than 1"),
        ("train_prefix.encoder", "other", "an encoder of fetch.encoders"),
        ("train_prefix.prefix_length", "-1", "greater than or equal to 0"),
        ("train_prefix.prefix_layers", "0", "greater than or equal to 1"),
        ("train_prefix.schedule", "cosine", "'constant' or 'linear'"),
        ("train_distilbert.encoder", "other", "an encoder of fetch.encoders"),
        ("train_distilbert.pooling", "max", "'cls' or 'mean'"),
        ("train_distilbert.trainable_layers", "-1", "greater than or equal to 0"),
        ("train_distilbert.batch_size", "null", "integer"),
    ],
)
def test_an_impossible_value_is_refused_with_line_key_value_and_remedy(tmp_path, key, value, allowed):
    text = changed(key, value)
    with pytest.raises(QcError) as caught:
        check(text, tmp_path)
    first = str(caught.value).splitlines()[0]
    place, found, rest = first.split(": ", 2)
    assert place.startswith("params.yaml:")
    line = text.splitlines()[int(place.removeprefix("params.yaml:")) - 1]
    assert line.split(":")[0].strip() == key.split(".")[-1]
    assert found.startswith(key)
    assert "invalid value" in rest and "; expected " in rest
    assert allowed in rest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PARAMS.replace("  hidden_size:", "  hiden_size:"),
            "train_scratch.hiden_size: unknown key; did you mean hidden_size?",
        ),
        (PARAMS + "\nextra: 1\n", "extra: unknown key; expected one of seed, launcher, threads"),
        (changed("train_prefix.epochs", None), "train_prefix: train_prefix.epochs: missing"),
        (PARAMS + "\nseed: 2\n", "duplicate key"),
        ("", "seed: missing"),
        ("[1, 2]", "expected keys and values"),
        ("seed: [1", "not valid YAML"),
        ("seed: 1\n\tx: 2", "params.yaml:2: not valid YAML"),
        ("seed: !!timestamp soon", "params.yaml:1: not valid YAML: failed to construct timestamp"),
        ("a: 1\nseed: " + "[" * 30, "params.yaml:2: not valid YAML"),
        ("a: 1\nseed: " + "[" * 3000, "params.yaml: not valid YAML"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(tmp_path, text, message):
    with pytest.raises(QcError) as caught:
        check(text, tmp_path)
    assert all(part in str(caught.value) for part in message.split("train_prefix: ")), caught.value


def test_every_fault_is_told_at_once(tmp_path):
    text = changed("seed", "x").replace("  norm: post", "  norm: past")
    with pytest.raises(QcError) as caught:
        check(text, tmp_path)
    assert len(str(caught.value).splitlines()) == 2


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    assert check(changed("train_prefix.learning_rate", "1e-4"), tmp_path).train_prefix.learning_rate == 1e-4


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(QcError, match="no such file; run this from the top"):
        read_yaml(Settings, tmp_path / "params.yaml", "params.yaml")
