"""The audit of the data: what the splits hold, and trivial baselines."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from qc.config.settings import Settings
from qc.files import read_json, write_json
from qc.questions import tables
from qc.questions.labels import UNKNOWN, Labels
from qc.questions.tables import new_table
from qc.questions.text import normalize_text
from qc.questions.vocabulary import Vocabulary
from qc.schema import read_yaml
from qc.split.audit import audit_leaks, describe_splits
from qc.split.groups import Reading, group_questions
from stages import split
from tests.conftest import ROOT

VOCABULARY = Vocabulary("x", 100, 0, 1, [], [], "")
NAMES = ["X", "Y"]


def rows_of(*questions, others=(), max_length=64, vocabulary=VOCABULARY):
    """Rows of (text, coarse, fine, input_ids); `others` are the ids of more tokenizers."""
    texts, coarse, fine, input_ids = (list(column) for column in zip(*questions, strict=True))
    pairs = sorted({pair for pair in zip(coarse, fine, strict=True) if pair[1]})
    columns = {
        "official": [False] * len(texts),
        "text": texts,
        "label": [NAMES.index(name) for name in coarse],
        "fine": [pairs.index(pair) if pair[1] else UNKNOWN for pair in zip(coarse, fine, strict=True)],
    }
    if not pairs:
        del columns["fine"]
    with tempfile.TemporaryDirectory() as folder:
        readings = []
        for number, ids in enumerate((input_ids, *others)):
            path = Path(folder) / f"{number}.parquet"
            with new_table(path, Labels(NAMES, pairs), *columns, "input_ids") as writer:
                writer.write_table(pyarrow.table({**columns, "input_ids": ids}, schema=writer.schema))
            readings.append(Reading(path, vocabulary, max_length))
        return group_questions(readings, seed=1)


def test_the_figures_count_duplicates_overlap_conflicts_and_cut_questions():
    rows = rows_of(
        ("a b", "X", "p", [1]),
        ("A  b", "X", "q", [1]),
        ("c", "Y", "p", [1, 2, 3]),
        ("d", "Y", "p", [1, 2, 3, 4]),
        ("C", "X", "p", [1, 2, 3]),
        ("e", "Y", "p", [2]),
        ("\u00e9", "X", "p", [2]),
    )
    splits = {"train": rows.take([0, 1, 2]), "valid": rows.take([3]), "test": rows.take([4, 5, 6])}
    figures = describe_splits(splits, NAMES, max_length=2)
    assert figures["size"] == {"train": 3, "valid": 1, "test": 3}
    assert figures["classes"]["train"] == {"X": 2, "Y": 1}
    assert figures["classes"]["valid"] == {"Y": 1}
    assert figures["duplicates"] == {"train": 1, "valid": 0, "test": 0}
    assert figures["overlap"] == {"train_valid": 0, "train_test": 1, "valid_test": 0}
    assert figures["by_ids"]["duplicates"] == {"train": 1, "valid": 0, "test": 1}  # "e" and its accent
    assert figures["by_ids"]["overlap"] == figures["overlap"]
    assert figures["by_ids"]["conflicting_labels"] == 2
    assert figures["groups_of_duplicates"] == {"of_2": 3}  # "a b" in train; "c" in train and test; "e" in test
    assert figures["conflicting_labels"] == 1  # "c" is Y in train, X in test
    assert figures["conflicting_fine_labels"] == 2  # and "a b" is X:p and X:q
    assert figures["truncated"] == {"train": 1, "valid": 1, "test": 1}
    assert describe_splits(splits, NAMES, max_length=3)["truncated"] == {"train": 0, "valid": 1, "test": 0}
    assert figures["truncated_share"]["train"] == pytest.approx(1 / 3)
    assert [figures["length"]["train"][key] for key in ("p0", "p50", "p100")] == [1, 1, 3]


def test_questions_are_the_same_where_one_of_the_tokenizers_cannot_tell_them_apart():
    questions = [(text, "X", "p", [number]) for number, text in enumerate("abcdA")]
    assert len(set(rows_of(*questions).groups)) == 4  # "a" and "A"
    rows = rows_of(*questions, others=[[[1], [2], [2], [3], [4]]])  # "b" and "c" as well
    assert rows.groups[1] == rows.groups[2]
    assert rows.ids[1] == rows.ids[2]
    assert len(set(rows.groups)) == 3
    rows = rows_of(*questions, others=[[[1], [2], [2], [3], [4]], [[1], [2], [3], [3], [3]]])
    assert len(set(rows.groups)) == 1  # "b" is as "c", "c" as "d", "d" as "A", "A" as "a"
    assert rows.lengths.tolist() == [1] * 5


def test_an_unknown_fine_class_is_no_conflict():
    rows = rows_of(("a", "X", "p", [1]), ("a", "X", "", [1]), ("b", "Y", "p", [2]), ("b", "Y", "q", [2]))
    figures = describe_splits({"train": rows}, NAMES, max_length=2)
    assert figures["conflicting_fine_labels"] == 1  # "b"


def test_questions_are_the_same_where_a_model_reads_no_further_than_they_agree():
    header = [7, 8, 9]
    questions = [(f"{text} ends", "X", "p", [2, *header, number, 3]) for number, text in enumerate("abc", start=11)]
    special = Vocabulary("x", 100, 0, 1, [2], [3], "")  # they do not count
    assert len(set(rows_of(*questions, max_length=4, vocabulary=special).groups)) == 3
    rows = rows_of(*questions, max_length=3, vocabulary=special)
    assert len(set(rows.groups)) == 1
    assert rows.lengths.tolist() == [4] * 3  # before truncation


def test_traits_leave_special_tokens_out_and_pieces_come_together_as_if_they_were_one(monkeypatch):
    special = Vocabulary("x", 100, 0, 1, [2], [3, 3], "")
    questions = [(f"q {n % 17}", NAMES[n % 2], "p", [2, 5 + n, *range(n % 4), 3, 3]) for n in range(40)]
    whole = rows_of(*questions, vocabulary=special)
    assert whole.lengths.tolist() == [1 + n % 4 for n in range(40)]
    assert whole.first_tokens.tolist() == list(range(5, 45))
    assert whole.last_tokens.tolist()[:5] == [5, 0, 1, 2, 9]
    assert len(set(whole.texts)) == 17
    assert not whole.official.any()
    monkeypatch.setattr(tables, "PIECE", 9)
    for name, expected in vars(whole).items():
        np.testing.assert_array_equal(getattr(rows_of(*questions, vocabulary=special), name), expected)


def test_a_trivial_baseline_predicts_the_class_most_often_seen():
    train = rows_of(
        ("who is it", "X", "", [7, 1, 9]),
        ("who was it", "X", "", [7, 2, 9]),
        ("who dug it", "Y", "", [7, 3, 8]),
        ("where is it", "Y", "", [5, 1, 8]),
        ("where", "X", "", [5]),
    )
    test = rows_of(
        ("who", "X", "", [7, 9]),  # 7 is mostly X; 9 always X; no train question has 2 tokens: the majority, X
        ("where now", "X", "", [5, 4, 8]),  # 5 is X and Y, so X; 8 always Y; 3 tokens: X and Y, so X
        ("then", "Y", "", [6, 8, 6, 6]),  # unseen everywhere: X
        ("late", "Y", "", [9, 9, 9]),  # as a first token unseen, so X; as a last one always X; 3 tokens: X
    )
    assert audit_leaks(train, test) == {"majority": 0.5, "first_token": 0.5, "last_token": 0.25, "length": 0.5}


@pytest.fixture
def stage(tmp_path, monkeypatch, capsys):
    """Run the stage on rows of (text, class, first token, official): the audit's figures and what was printed."""
    monkeypatch.chdir(tmp_path)
    settings = read_yaml(Settings, ROOT / "params.yaml", "params.yaml")
    folder = Path("data/tokenized/all-MiniLM-L6-v2")
    folder.mkdir(parents=True)
    write_json(folder / "vocabulary.json", VOCABULARY.record())

    def run(rows, **options):
        texts, names, tokens, official = zip(*rows, strict=True)
        labels = sorted(set(names))
        columns = {
            "id": range(len(rows)),
            "official": official,
            "text": texts,
            "label": [labels.index(name) for name in names],
            "input_ids": [[token, 100 + number] for number, token in enumerate(tokens)],
        }
        with new_table(folder / "questions.parquet", Labels(labels), *columns) as writer:
            writer.write_table(pyarrow.table(columns, schema=writer.schema))
        config = settings.split.model_copy(update=options)
        split.main(settings.model_copy(update={"split": config}))
        return read_json(Path("reports/data.json")), capsys.readouterr()

    return run


def test_the_baselines_of_the_audit_are_those_of_train_scored_on_the_official_test(stage):
    train = [(f"{name} {n}", name, n, False) for n in range(10) for name in ("one", "two", "three")]
    test = [(f"{name} again {n}", name, 50 + n, True) for n in range(10) for name in ("one", "two")]
    figures, _ = stage(train + test)
    assert figures["leak_audit"]["first_token"] == figures["leak_audit"]["majority"] == 0.5
    assert figures["size"] == {"train": 27, "valid": 3, "test": 20}
    assert figures["train_questions_in_official_test"] == 0


@pytest.mark.parametrize(("drop", "left"), [(True, 39), (False, 40)])
def test_the_files_hold_every_question_of_a_split_with_its_group(stage, monkeypatch, drop, left):
    monkeypatch.setattr(tables, "PIECE", 7)
    rows = [(f"question {n % 38}", "ab"[n % 2], n, n >= 40) for n in range(50)]  # 38 and 39 are 0 and 1 again
    rows[45] = ("QUESTION 5", "b", 45, True)
    rows[40:45] = [(f"new {n}", "ab"[n % 2], n, True) for n in range(40, 45)]
    rows[46:] = [(f"new {n}", "ab"[n % 2], n, True) for n in range(46, 50)]
    figures, said = stage(rows, drop_test_questions=drop, valid=0.25)
    assert figures["train_questions_in_official_test"] == 1
    files = {name: Path(f"data/split/all-MiniLM-L6-v2/{name}.parquet") for name in ("train", "valid", "test")}
    assert figures["sha256"] == {
        f"all-MiniLM-L6-v2/{name}": hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }
    parts = {name: tables.QuestionTable.read(path).columns.to_pylist() for name, path in files.items()}
    assert [row["id"] for row in parts["test"]] == list(range(40, 50))
    assert len(parts["train"]) + len(parts["valid"]) == left
    assert len(parts["valid"]) == round(left / 4)
    assert f"train: {len(parts['train'])} questions, valid: {len(parts['valid'])} questions, test: 10" in said.out
    groups = {}
    for row in (row for part in parts.values() for row in part):
        text, name, token, _ = rows[row["id"]]
        assert (row["text"], "ab"[row["label"]], row["input_ids"]) == (text, name, [token, 100 + row["id"]])
        assert list(row) == ["id", "text", "label", "input_ids", "group"]
        assert groups.setdefault(normalize_text(text), row["group"]) == row["group"]
    assert len(set(groups.values())) == len(groups)


@pytest.mark.parametrize("gives_away", [True, False])
def test_a_first_token_that_gives_the_class_away_is_reported_with_a_warning(stage, gives_away):
    rows = [(f"{name} {n}", name, 10 * gives_away + place, False) for n in range(20) for place, name in enumerate("ab")]
    rows = rows if gives_away else [(text, name, 7, official) for text, name, _, official in rows]
    figures, said = stage(rows)
    assert figures["leak_suspected"] is gives_away
    assert ("A LEAK IS SUSPECTED" in said.err) is gives_away
    assert f"first_token {1 if gives_away else 0.5:.3f}" in said.out
    assert "A LEAK" not in stage(rows, leak_above=1.0)[1].err  # where it gives all away, no more than 1.0
    assert "A LEAK" in stage(rows, leak_above=0.49)[1].err
