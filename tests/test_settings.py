"""params.yaml and data/sources.yaml: every invalid value is refused with its line, its key and what is expected."""

import pytest

from qc.config.settings import Settings
from qc.config.sources import Sources
from qc.errors import QcError
from qc.schema import parse_yaml, read_yaml, validate
from tests.conftest import ROOT

COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")
PARAMS = "\n".join(line.partition(" #")[0].rstrip() for line in COMMITTED.splitlines() if line[:1] != "#")
RULE = '{{metric: "{metric}", better: {better}, {limit}}}'


def changed(key, value):
    """params.yaml with the lines of one key replaced by one; `value` None removes it."""
    *section, name = key.split(".")
    lines = PARAMS.splitlines()
    start = lines.index(f"{section[0]}:") + 1 if section else 0
    indent = "  " if section else ""
    index = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{indent}{name}:"))
    end = len(lines) if name == "rules" else index + 1
    lines[index:end] = [] if value is None else [f"{indent}{name}: {value}"]
    return "\n".join(lines)


def check(text):
    return parse_yaml(Settings, text, "params.yaml")


def rule(limit, metric="*.accuracy", better="higher"):
    return "[" + RULE.format(metric=metric, better=better, limit=limit) + "]"


def test_the_committed_file_is_valid():
    assert check(COMMITTED) == check(PARAMS)
    assert check(COMMITTED).tokenize.include_fine_label is False


BOOLEAN, INTEGER = ("1", "'yes'"), ("true", "one", "1.5", "null", "'1'")
MODEL_KEYS = {  # of every model's section
    "epochs": (("0", "2147483648"), ("1", "2147483647")),
    "patience": (("0",), ("1",)),
    "select_by": (("accurracy",), ("accuracy", "macro_f1", "loss", "last")),
    "batch_size": (("0", "null"), ("1",)),
    "learning_rate": (("0", "-1", ".nan", ".inf", "fast"), ("1e-4",)),
    "head_learning_rate": (("0",), ("null", "1e-4")),
    "betas": (("[0.9]", "[0.9, 0.9, 0.9]", "[0.9, 1.0]", "[-0.1, 0.9]"), ("[0, 0.999]",)),
    "eps": (("0",), ("1e-12",)),
    "weight_decay": (("-0.1",), ("0", "1.5")),
    "schedule": (("cosine",), ("constant", "linear")),
    "warmup": (("-0.1", "1"), ("0", "0.99")),
    "clip_norm": (("0",), ("null", "0.1")),
    "label_smoothing": (("-0.1", "1"), ("0", "0.99")),
    "fine_weight": (("-1",), ("0", "5")),
    "max_length": (("0",), ("null", "1")),
}
KEYS = {  # invalid values, and valid ones at the limits
    "seed": (("-1", "4294967296", *INTEGER), ("0", "4294967295")),
    "launcher": (("''", "' python'"), ("torchrun --nproc-per-node=2",)),
    "threads": (("0", "1025"), ("1", "1024")),
    "device": (("tpu",), ("auto", "cpu", "cuda")),
    "precision": (("fp16",), ("auto", "fp32", "bf16")),
    "compile": (BOOLEAN, ("true",)),
    "class_weights": (("even",), ("null", "balanced")),
    "max_length": (("0", "2147483648", "1.5"), ("1",)),
    "fetch.train": (("../secrets", "file:///etc/passwd.csv", "ftp://x/y.csv", "null"), ("a.CSV", "b.jsonl", "c.tsv")),
    "fetch.test": (("x.json",), ("null", "TREC_10.label")),
    "fetch.train_sha256": (("'12'", "A" * 64), ("a" * 64, "null")),
    "fetch.test_sha256": (("12", "g" * 64), ("a" * 64,)),
    "fetch.columns": (
        ("{text: a, label: b, fine: a}", "{text: a, label: a, fine: null}", "{text: '', label: b, fine: null}",
         "{text: a, label: '', fine: null}", "{text: a, label: b, fine: ''}"),
        ("{text: a, label: b, fine: c}",),
    ),
    "fetch.corrections": (("x.jsonl", "x.label", "https://x/y.csv"), ("x.csv", "x.TSV", "null")),
    "fetch.encoders": (
        ("[]", "all-MiniLM-L6-v2", "[hub:owner/name@main]", "[hub:name]", "['hub:a/b@" + "0" * 39 + "']", "[.hidden]",
         "[all-MiniLM-L6-v2, all-MiniLM-L6-v2]", "[all-MiniLM-L6-v2, own/all-MiniLM-L6-v2]", "[data/own/..]"),
        ("[all-MiniLM-L6-v2, 'hub:a/b@" + "0" * 40 + "', data/own/mine]",),
    ),
    "tokenize.lowercase": (BOOLEAN, ("true",)),
    "tokenize.include_fine_label": (BOOLEAN, ("true",)),
    "split.seed": (("-1", "4294967296"), ("0", "4294967295")),
    "split.valid": (("0", "1"), ("0.8",)),
    "split.test": (("0", "1", "0.9"), ("0.8",)),
    "split.drop_test_questions": (BOOLEAN, ("false",)),
    "split.leak_above": (("-0.1", "1.1"), ("0", "1")),
    "gate.rules": (
        ("[]", rule("absolute: -0.1"), rule("relative: -0.1"), rule("p_value: 0"), rule("p_value: 1.1"),
         rule("p_value: 0.05", metric="*.loss"), rule("p_value: 0.05", better="lower"), rule("absolute: 1", "a..b"),
         rule("absolute: 1", ".a"), rule("absolute: 1", better="more")),
        (rule("absolute: 0, relative: 0, p_value: 1"), rule("p_value: 0.05", "scratch.accuracy")),
    ),
    "train_scratch.hidden_size": (("130", "3", "0"), ("128",)),
    "train_scratch.heads": (("0",), ("1",)),
    "train_scratch.ffn_size": (("0",), ("1",)),
    "train_scratch.layers": (("0",), ("1",)),
    "train_scratch.convolution": (("-1", "65"), ("0",)),
    "train_scratch.pooling": (("max",), ("mean", "mean_max")),
    "train_scratch.head_dropout": (("-0.1", "1"), ("0",)),
    "train_scratch.norm": (("middle",), ("pre", "post")),
    "train_scratch.mask_padding": (BOOLEAN, ("false",)),
    "train_scratch.min_count": (("-1",), ("0",)),
    "train_scratch.tokenizer": (("bert-base-uncased", "../x"), ()),
    "train_scratch.dropout": (("-0.1", "1"), ("0",)),
    "train_prefix.encoder": (("other",), ()),
    "train_prefix.prefix_length": (("-1",), ("0", "null")),
    "train_prefix.prefix_layers": (("0", "every"), ("1", "all")),
    "train_prefix.prefix_std": (("-1",), ("0",)),
    "train_prefix.cache_frozen": (BOOLEAN, ("false",)),
    "train_prefix.cache_memory": (("-1",), ("0",)),
    "train_distilbert.encoder": (("other",), ()),
    "train_distilbert.trainable_layers": (("-1", "every"), ("0", "all")),
    "train_distilbert.head_hidden_size": (("0",), ("1",)),
    "train_distilbert.dropout": (("-0.1", "1"), ("0",)),
    "train_distilbert.pooling": (("max",), ("cls", "mean")),
    **{f"train_scratch.{key}": values for key, values in MODEL_KEYS.items()},
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_value_is_valid_up_to_its_limits_and_refused_with_line_and_key_beyond_them(key):
    invalid, valid = KEYS[key]
    for value in invalid:
        text = changed(key, value)
        with pytest.raises(QcError) as caught:
            check(text)
        for line in str(caught.value).splitlines():
            place, dotted, rest = line.split(": ", 2)
            named = text.splitlines()[int(place.removeprefix("params.yaml:")) - 1].strip()
            assert named.startswith(f"{key.split('.')[-1]}:"), value
            assert dotted.startswith(key), value
            assert rest.startswith("invalid value ") and "; expected " in rest
    for value in valid:
        check(changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", "-1", "invalid value -1; expected greater than or equal to 0"),
        ("seed", "true", "invalid value True; expected integer"),
        ("device", "tpu", "invalid value 'tpu'; expected 'auto', 'cpu' or 'cuda'"),
        ("fetch.train", "x.txt", "expected a label file of data/sources.yaml, or a path or address that ends in "),
        ("fetch.train", "ftp://x/y.csv", "expected an address that begins with http:// or https://"),
        ("fetch.corrections", "x.label", "invalid value 'x.label'; expected a path that ends in .csv or .tsv"),
        ("fetch.encoders", "[hub:owner/name@main]", "expected hub:owner/name@revision, the revision being a commit's"),
        ("fetch.encoders", "[.hidden]", "a folder whose name begins with a letter or digit"),
        ("fetch.encoders", "[a, b/a]", "invalid value 'a'; expected each encoder named once, and no two called a"),
        ("train_prefix.encoder", "other", "expected an encoder of fetch.encoders: all-MiniLM-L6-v2"),
        ("train_scratch.betas", "[0.9]", "invalid value [0.9]; expected at least 2 items"),
        ("train_scratch.heads", "3", "train_scratch.hidden_size: invalid value 256; expected a multiple of heads"),
        ("train_scratch.hidden_size", "3", "invalid value 3; expected multiple of 2"),
        ("train_scratch.hidden_size", "0", "invalid value 0; expected greater than or equal to 2"),
        ("split.test", "0.95", "invalid value 0.95; expected less than 0.9, so that valid + test leave questions to"),
        ("fetch.columns", "{text: a, label: a, fine: null}", "invalid value 'a'; expected three different columns"),
        ("gate.rules", rule("p_value: 0.1", "*.ece"), "expected beside a metric MODEL.accuracy, better: higher"),
    ],
)  # fmt: skip
def test_the_message_says_what_is_expected(key, value, told):
    with pytest.raises(QcError) as caught:
        check(changed(key, value))
    assert told in str(caught.value)


@pytest.mark.parametrize("key", ["train", "test"])
def test_an_address_needs_the_hash_of_what_is_there(key):
    text = changed(f"fetch.{key}", "https://example.org/questions.csv")
    with pytest.raises(
        QcError, match=rf"fetch\.{key}_sha256: invalid value None; expected the SHA-256 of what {key} n"
    ):
        check(text)
    check(text.replace(f"{key}_sha256: null", f"{key}_sha256: {'a' * 64}"))


def test_portable_arithmetic_is_for_cpus():
    text = changed("precision", "portable")
    for device in ("auto", "cuda"):
        with pytest.raises(QcError, match=f"device: invalid value '{device}'; expected cpu beside precision: portable"):
            check(text.replace("device: auto", f"device: {device}"))
    assert check(text.replace("device: auto", "device: cpu")).precision == "portable"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PARAMS.replace("  hidden_size:", "  hiden_size:"),
         ["train_scratch.hiden_size: unknown key; did you mean hidden_size? expected one of epochs, ",
          "train_scratch.hidden_size: missing; `git diff params.yaml` shows what was removed"]),
        (PARAMS.replace("text: text", "txet: text"), ["fetch.columns.txet: unknown key; did you mean text? expected"]),
        (PARAMS.replace("absolute: 0.1}", "absolut: 0.1}"), ["absolut: unknown key; did you mean absolute?"]),
        (PARAMS + "\nextra: 1\n", ["extra: unknown key; expected one of seed, launcher, threads"]),
        (changed("train_prefix.epochs", None), ["train_prefix.epochs: missing"]),
        (PARAMS + "\nseed: 2\n", ["duplicate key"]),
        (changed("seed", "x").replace("norm: post", "norm: past"), ["seed: invalid", "train_scratch.norm: invalid"]),
        ("", ["params.yaml: seed: missing"]),
        ("[1, 2]", ["params.yaml: expected keys and values, found [1, 2]"]),
        ("seed: [1", ["not valid YAML"]),
        ("seed: 1\n\tx: 2", ["params.yaml:2: not valid YAML"]),
        ("seed: !!timestamp soon", ["params.yaml:1: not valid YAML: failed to construct timestamp"]),
        ("a: 1\nseed: " + "[" * 30, ["params.yaml:2: not valid YAML"]),
        ("a: 1\nseed: " + "[" * 1000, ["params.yaml: not valid YAML"]),
    ],
)  # fmt: skip
def test_a_file_of_the_wrong_shape_is_refused_with_all_its_faults(text, told):
    with pytest.raises(QcError) as caught:
        check(text)
    assert all(part in str(caught.value) for part in told), caught.value


def test_numbers_are_read_as_dvc_reads_them():
    assert check(changed("train_prefix.learning_rate", "1e-4")).train_prefix.learning_rate == 1e-4


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(QcError, match=r"^params\.yaml: no such file; run this from the top"):
        read_yaml(Settings, tmp_path / "params.yaml", "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff")
    with pytest.raises(QcError, match=r"^params\.yaml: cannot be read: .*utf-8"):
        read_yaml(Settings, tmp_path / "params.yaml", "params.yaml")


PIN = {"bytes": 0, "sha256": "0" * 64}
NPM = {"npm": "@a/b@1.0", "member": "m", "sha256": "0" * 64, "lines": [1, 2], "replace": {"efbf": "f0"}}
ENCODER_FILES = dict.fromkeys(("config.json", "model.safetensors", "tokenizer.json"), PIN)


def sources(label=None, npm=None, encoder=None, package=None):
    """data/sources.yaml with a file of each kind, changed in places."""
    label = {**PIN, "licence": "none", "urls": ["https://x/y"], "packages": [{**NPM, **(npm or {})}], **(label or {})}
    encoder = {"licence": None, "repository": "a/b", "revision": "0" * 40, "files": ENCODER_FILES, **(encoder or {})}
    encoder["packages"] = [package or {"folder": "f", "pip": "a-b==1.0"}]
    return {"labels": {"x.label": label}, "encoders": {"e": encoder}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"label": {"bytes": -1}}, "x.label.bytes"),
        ({"label": {"sha256": "0" * 63}}, "x.label.sha256"),
        ({"label": {"urls": ["ftp://x/y"]}}, "x.label.urls.0"),
        ({"npm": {"npm": "--registry=x"}}, "packages.0.npm"),
        ({"npm": {"npm": "b"}}, "packages.0.npm"),
        ({"npm": {"sha256": ""}}, "packages.0.sha256"),
        ({"npm": {"lines": [0, 2]}}, "packages.0.lines.0"),
        ({"npm": {"lines": [1]}}, "packages.0.lines"),
        ({"npm": {"lines": [1, 2, 3]}}, "packages.0.lines"),
        ({"npm": {"replace": {"efb": "f0"}}}, "packages.0.replace.efb"),
        ({"npm": {"replace": {"efbf": "x"}}}, "packages.0.replace.efbf"),
        ({"encoder": {"repository": "b"}}, "e.repository"),
        ({"encoder": {"revision": "main"}}, "e.revision"),
        ({"encoder": {"files": {"config.json": PIN}}}, "e.files"),
        ({"encoder": {"files": {**ENCODER_FILES, "../x": PIN}}}, "e.files.../x"),
        ({"package": {"folder": "f", "pip": "--index-url==1"}}, "packages.0.EncoderPackage.pip"),
        ({"package": {"folder": "f", "pip": "a>=1"}}, "packages.0.EncoderPackage.pip"),
        ({"package": {"folder": "f", "pieces": []}}, "packages.0.SplitPackage.pieces"),
    ],
)
def test_what_data_sources_yaml_pins_is_checked_and_never_an_option_of_a_client(changes, key):
    validate(Sources, sources(), "sources")
    validate(Sources, sources(package={"folder": "f", "pieces": [{**PIN, "pip": "a==1", "member": "m"}]}), "sources")
    with pytest.raises(QcError) as caught:
        validate(Sources, sources(**changes), "sources")
    assert f"{key}: invalid value" in str(caught.value)
