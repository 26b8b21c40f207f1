"""Each encoder's own tokenizer: whatever its kind, and in whatever script the questions are."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from qc.errors import QcError
from qc.questions import tokenized
from qc.questions.reader import LabelledQuestion
from qc.questions.tables import QuestionTable
from qc.questions.tokenized import take_inventory, write_tokenized
from qc.questions.tokenizers import describe_tokenizer, load_tokenizer, token_ids

TEXTS = [
    "Who wrote Hamlet ?",
    "Wer schrieb den größten Roman über die Straße ?",
    "Ποιος έγραψε την Οδύσσεια ;",
    "谁写了这本书",
    "من كتب هذه القصة ؟",
    "what does 🎉 mean ? 👩‍🚀",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # padding is not 0


def trained(kind: str) -> Tokenizer:
    """A small tokenizer that knows `TEXTS`, as the published ones of its kind are built."""
    common = {"vocab_size": 400, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**common)
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(**common)
    elif kind == "byte-level BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**common, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(**common, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


KINDS = ["WordPiece", "BPE", "byte-level BPE", "Unigram"]


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    trained(request.param).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_ids_are_those_of_the_tokenizer_with_its_own_special_tokens(folder):
    tokenizer = load_tokenizer(folder)
    vocabulary = describe_tokenizer(folder, tokenizer)
    assert (vocabulary.before, vocabulary.after, vocabulary.pad_id) == ([0], [2], 1)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    ids = token_ids(tokenizer, TEXTS, vocabulary)
    assert ids == [reference.encode(text).ids for text in TEXTS]
    assert all(row[0] == 0 and row[-1] == 2 and len(row) > 2 for row in ids)
    assert max(max(row) for row in ids) < vocabulary.size
    assert len({tuple(row) for row in ids}) == len(TEXTS)
    assert len(ids[0]) > 4  # what the file says of truncation is not followed


def test_what_no_token_stands_for_is_unknown(folder):
    tokenizer = load_tokenizer(folder)
    vocabulary = describe_tokenizer(folder, tokenizer)
    (ids,) = token_ids(tokenizer, ["ħ"], vocabulary)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    if model["type"] == "BPE" and model["unk_token"] is None:
        assert vocabulary.unknown_id == vocabulary.pad_id
        assert len(ids) > 3  # its bytes
    else:
        assert vocabulary.unknown_id == 3
        assert 3 in ids


def test_a_text_of_which_nothing_is_left_is_one_unknown_token(tmp_path):
    tokenizer = trained("WordPiece")
    tokenizer.normalizer = normalizers.Replace("x", "")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    assert token_ids(tokenizer, ["x x"], describe_tokenizer(tmp_path, tokenizer)) == [[0, 3, 2]]


@pytest.mark.parametrize(
    ("config", "padding", "expected"), [({"pad_token_id": 2}, 1, 2), ({"pad_token_id": None}, 3, 3), ({}, None, 1)]
)
def test_padding_is_the_encoders_then_the_tokenizers_then_the_token_of_that_name(tmp_path, config, padding, expected):
    tokenizer = trained("BPE")
    if padding is None:
        tokenizer.no_padding()
    else:
        tokenizer.enable_padding(pad_id=padding)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert describe_tokenizer(tmp_path, load_tokenizer(tmp_path)).pad_id == expected


def test_a_tokenizer_without_padding_is_refused_with_what_to_do(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(QcError, match=r"no padding id; write it into .*config\.json as pad_token_id"):
        describe_tokenizer(tmp_path, load_tokenizer(tmp_path))


def test_an_added_token_counts_in_the_vocabulary(folder):
    tokenizer = load_tokenizer(folder)
    before = describe_tokenizer(folder, tokenizer)
    tokenizer.add_tokens(["one more"])
    tokenizer.save(str(folder / "tokenizer.json"))
    after = describe_tokenizer(folder, load_tokenizer(folder))
    assert after.size == before.size + 1
    assert after.tokenizer_sha256 != before.tokenizer_sha256


def test_a_tokenizer_without_special_tokens_puts_none(tmp_path):
    tokenizer = trained("Unigram")
    tokenizer.post_processor = processors.Sequence([])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    vocabulary = describe_tokenizer(tmp_path, tokenizer)
    assert (vocabulary.before, vocabulary.after) == ([], [])
    assert token_ids(tokenizer, TEXTS, vocabulary) == [row.ids for row in tokenizer.encode_batch(TEXTS)]


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"model": {"type": "None such"}}'])
def test_a_broken_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(QcError, match=r"tokenizer\.json: cannot be read: .*; run the fetch stage again"):
        load_tokenizer(tmp_path)


def test_the_tables_hold_every_question_with_the_ids_of_each_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenized, "PIECE", 2)
    tokenizers = []
    for kind, lowercase, fine_first in (("BPE", True, False), ("Unigram", False, True)):
        (tmp_path / kind).mkdir()
        trained(kind).save(str(tmp_path / kind / "tokenizer.json"))
        (tmp_path / kind / "config.json").write_text("{}")
        tokenizer = load_tokenizer(tmp_path / kind)
        tokenizers.append((tokenizer, describe_tokenizer(tmp_path / kind, tokenizer, lowercase, fine_first)))
    rows = [
        ("train", LabelledQuestion("b", "x", "Who wrote Hamlet ?")),
        ("train", LabelledQuestion("a", "x", "WHO ?")),
        ("train", LabelledQuestion("b", "w", "who")),
        ("test", LabelledQuestion("b", "y", "Hamlet")),  # a fine class that train does not have
        ("test", LabelledQuestion("a", "", "wrote ?")),
    ]
    labels, count, without_fine = take_inventory(rows)
    assert (labels.classes, labels.fine_classes) == (["a", "b"], [("a", "x"), ("b", "w"), ("b", "x")])
    assert (count, without_fine) == (5, 1)
    write_tokenized(rows, labels, count, tokenizers, tmp_path)
    texts = [question.text for _, question in rows]
    treated = {"BPE": [text.lower() for text in texts], "Unigram": [f"{row.fine} {row.text}" for _, row in rows]}
    for tokenizer, vocabulary in tokenizers:
        assert QuestionTable.read(tmp_path / vocabulary.tokenizer / "questions.parquet").columns.to_pydict() == {
            "id": [0, 1, 2, 3, 4],
            "official": [False, False, False, True, True],
            "text": texts,
            "label": [1, 0, 1, 1, 0],
            "fine": [2, 0, 1, -1, -1],
            "input_ids": token_ids(tokenizer, treated[vocabulary.tokenizer], vocabulary),
        }


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("train", "a"), ("train", "a"), ("test", "b")], "the train file has only one class, a; expected two or more"),
        (
            [("train", "a"), ("train", "b"), ("test", "d"), ("test", "c")],
            "the test file has class c, d, which the train file does not have; expected a, b",
        ),
    ],
)
def test_classes_that_cannot_be_learned_or_tested_are_refused(rows, told):
    with pytest.raises(QcError) as caught:
        take_inventory((partition, LabelledQuestion(name, "", "who ?")) for partition, name in rows)
    assert str(caught.value) == told
