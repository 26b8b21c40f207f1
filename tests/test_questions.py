"""The one reader: formats, encodings, line ends, and what is refused by file and line."""

import csv
import io
import json

import numpy as np
import pandas
import pyarrow
import pytest
from datasets import Features
from hypothesis import given, settings
from hypothesis import strategies as st

from qc.errors import QcError
from qc.files import csv_writer, escape_formula, read_csv, unescape_formula, write_csv
from qc.questions.labels import Labels, join_fine, split_fine
from qc.questions.reader import LabelledQuestion, label_encoding, read_questions
from qc.questions.tables import QuestionTable, new_table, read_pieces
from qc.questions.text import case_twins, fault_of_label, fault_of_text, normalize_label, normalize_text
from tests.conftest import ROOT

C1 = "".join(map(chr, range(0x80, 0xA0)))  # where Windows-1252 has quotes and dashes
LATIN = st.characters(max_codepoint=255, exclude_characters=f"\n\r{C1}")
WORDS = st.characters(max_codepoint=255, exclude_categories=["Cc", "Cf", "Zs"])
NAMES = st.text(WORDS.filter(lambda character: character != ":"), min_size=1, max_size=9)
FINE = st.text(WORDS, min_size=1, max_size=9)
LABEL_FILE_TEXTS = st.text(LATIN, min_size=1, max_size=20).filter(lambda text: fault_of_text(text) is None)
LABELS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9)
LABELS = LABELS.map(normalize_label).filter(lambda label: fault_of_label(label) is None)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: fault_of_text(text) is None)
ENDS = st.sampled_from(["\n", "\r", "\r\n"])
ROWS = st.lists(st.tuples(LABELS, LABELS, TEXTS), min_size=1, max_size=6)
COLUMNS = {"text": "text", "label": "label", "fine": None}
FINE_COLUMNS = {"text": "what was asked", "label": "class", "fine": "kind"}
HEADER = "text,label\n"
few = settings(max_examples=40)


def numbered(content, ending=".label", columns=COLUMNS, **options):
    content = content if isinstance(content, bytes) else content.encode()
    return list(read_questions(io.BytesIO(content), ending, columns, f"x{ending}", **options))


def read(content, ending=".label", columns=COLUMNS):
    return [question for _, question in numbered(content, ending, columns)]


def refused(content, ending=".label", columns=COLUMNS, **options):
    with pytest.raises(QcError) as caught:
        numbered(content, ending, columns, **options)
    return str(caught.value)


def test_a_model_keeps_the_names_of_the_classes_and_which_fine_class_is_of_which():
    labels = Labels(["B", "A"], [("A", "x"), ("B", "y"), ("A", "z")])
    assert labels.record() == {"classes": ["B", "A"], "fine_classes": [["A", "x"], ["B", "y"], ["A", "z"]]}
    assert labels.coarse_of() == [1, 0, 1]
    assert Labels(["A"]).record() == {"classes": ["A"], "fine_classes": []}


@given(st.text(), st.text())
def test_coarse_and_fine_class_come_back_from_the_name_of_a_fine_class(coarse, fine):
    assert split_fine(join_fine(coarse, fine)) == (coarse, fine)


def test_a_fine_class_is_named_as_in_a_label_file():
    assert join_fine("NUM", "date") == "NUM:date"
    assert join_fine("a:b", "c") != join_fine("a", "b:c")


@few
@given(st.lists(st.builds(LabelledQuestion, NAMES, FINE, LABEL_FILE_TEXTS), min_size=1, max_size=6), ENDS)
def test_every_well_formed_label_file_is_read_as_it_was_written(questions, end):
    content = "".join(f"{q.coarse}:{q.fine} {q.text}{end}" for q in questions).encode("latin-1")
    assert read(content) == questions


@few
@given(rows=ROWS, mark=st.booleans(), end=ENDS, delimiter=st.sampled_from([(".csv", ","), (".tsv", "\t")]))
def test_every_table_that_is_quoted_as_it_should_be_is_read_as_it_was_written(rows, mark, end, delimiter):
    ending, character = delimiter
    out = io.StringIO()
    writer = csv.writer(out, delimiter=character, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "kind", "what was asked", "class"])
    writer.writerows([number, fine, text, coarse] for number, (coarse, fine, text) in enumerate(rows))
    content = out.getvalue().encode("utf-8-sig" if mark else "utf-8")
    assert read(content, ending, FINE_COLUMNS) == [LabelledQuestion(*row) for row in rows]


@few
@given(rows=ROWS, escaped=st.booleans(), end=ENDS)
def test_every_file_of_objects_is_read_as_it_was_written(rows, escaped, end):
    objects = [{"kind": fine, "what was asked": text, "class": coarse, "other": None} for coarse, fine, text in rows]
    content = "".join(f"{json.dumps(row, ensure_ascii=escaped)}{end}" for row in objects)
    assert read(content, ".jsonl", FINE_COLUMNS) == [LabelledQuestion(*row) for row in rows]


@few
@given(st.lists(TEXTS.filter(lambda text: not {"\n", "\r"} & set(text)), min_size=1, max_size=6), ENDS)
def test_every_file_of_lines_is_read_as_it_was_written(texts, end):
    questions = numbered(end.join(texts).encode("utf-8-sig"), ".txt")
    assert questions == [(number, LabelledQuestion("", "", text)) for number, text in enumerate(texts, start=1)]


# Python splits lines at some of these, spreadsheets run formulas, and CSV gives a meaning to quotes and line ends.
ODD = st.text(st.sampled_from("\0\r\n\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\",';=+-@ a\ufeff"), min_size=1)


@few
@given(st.lists(st.tuples(ODD | TEXTS, ODD | LABELS), min_size=1, max_size=6), st.booleans())
def test_what_is_written_as_csv_every_reader_reads(tmp_path_factory, rows, inert):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    write_csv(path, ["text", "label"], rows, inert)
    expected = [tuple(map(escape_formula, row)) if inert else row for row in rows]
    assert [tuple(row.values()) for row in read_csv(path)] == expected
    assert list(pandas.read_csv(path, dtype=str, keep_default_na=False).itertuples(False, None)) == expected
    with path.open(encoding="utf-8") as file:  # as DVC opens it, which makes a CR an LF
        assert len(list(csv.DictReader(file))) == len(rows)
    valid = [(text, normalize_label(label)) for text, label in expected if not fault_of_text(text)]
    if len(valid) == len(rows) and not any(fault_of_label(label) for _, label in valid):
        assert [(question.text, question.coarse) for question in read(path.read_bytes(), ".csv")] == valid


@few
@given(rows=ROWS, fine=st.booleans())
def test_what_is_written_as_a_table_every_reader_reads(tmp_path_factory, rows, fine):
    path = tmp_path_factory.mktemp("table") / "x.parquet"
    coarse, kinds, texts = zip(*rows, strict=True)
    labels = Labels(sorted(set(coarse)), sorted(set(zip(coarse, kinds, strict=True))) if fine else [])
    columns = {
        "text": list(texts),
        "label": [labels.classes.index(name) for name in coarse],
        "input_ids": [[number] * number for number in range(len(rows))],
    }
    if fine:
        columns["fine"] = [labels.fine_classes.index(pair) for pair in zip(coarse, kinds, strict=True)]
    with new_table(path, labels, "text", "label", "fine", "input_ids") as writer:
        writer.write_table(pyarrow.table(columns, schema=writer.schema))
    table = QuestionTable.read(path)
    assert {name: table.columns[name].to_pylist() for name in columns} == columns
    assert (table.class_names.classes, table.class_names.fine_classes) == (labels.classes, labels.fine_classes)
    assert table.fine_labels is None or table.fine_labels.tolist() == columns["fine"]
    chosen = np.arange(0, len(rows), 2)
    assert [text for piece in read_pieces(path, "text", rows=chosen) for text in piece.texts] == list(texts[::2])
    features = Features.from_arrow_schema(pyarrow.parquet.read_schema(path))  # as load_dataset reads it
    assert [features["label"].int2str(number) for number in columns["label"]] == list(coarse)
    assert list(features) == ["text", "label", *(["fine"] if fine else []), "input_ids"]


@given(ODD)
def test_a_spreadsheet_runs_nothing_and_the_way_back_is_exact(text):
    escaped = escape_formula(text)
    assert not escaped.lstrip().startswith(("=", "+", "-", "@"))
    assert unescape_formula(escaped) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("=1", "'=1"), ("'=1", "''=1"), (" @x", "' @x"), ("-1", "'-1"), ("'tis", "'tis"), ("a=1", "a=1"), (-1.5, -1.5)],
)
def test_an_apostrophe_stands_before_formulas_alone(text, escaped):
    assert escape_formula(text) == escaped


def test_a_carriage_return_is_quoted_and_lines_end_in_a_line_feed():
    out = io.StringIO(newline="")
    csv_writer(out).writerows([["a\rb", "c"], [1, ""]])
    assert out.getvalue() == '"a\rb",c\n1,\n'


def test_colons_and_odd_line_ends_inside_a_question_are_part_of_it():
    content = b"DESC:def What is : a colon \xa7 and\x0b\x1c such ?\nNUM:count:odd\t How many ?"
    assert read(content) == [
        LabelledQuestion("DESC", "def", "What is : a colon \xa7 and\x0b\x1c such ?"),
        LabelledQuestion("NUM", "count:odd", " How many ?"),
    ]


@pytest.mark.parametrize("line", ["NUM", "NUM:count", "NUM:count ", "NUM:count   ", "NUM How many", ":x y", "N: y"])
def test_a_malformed_line_is_refused_with_file_and_line(line):
    told = refused(f"A:b fine\n{line}\nA:b fine\n")
    assert told == f"x.label:2: {line!r} is not 'COARSE:fine question'; 1 such line(s) to correct: 2"


def test_the_first_twenty_malformed_lines_are_named_and_all_are_counted():
    told = refused("wrong\r" * 23)
    assert told.endswith(f"; 23 such line(s) to correct: {', '.join(map(str, range(1, 21)))} and 3 more")


@pytest.mark.parametrize(
    ("content", "ending"), [("", ".label"), ("", ".jsonl"), ("", ".csv"), (HEADER, ".csv"), ("", ".txt")]
)
def test_an_empty_file_is_refused(content, ending):
    assert refused(content, ending) == f"x{ending}: empty; expected one question a line"


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        ("text,label,kind\nwho ?,a,\nwhy ?,b,c\n", ".csv"),
        ('{"text": "who ?", "label": "a", "kind": null}\n{"text": "why ?", "label": "b", "kind": "c"}', ".jsonl"),
        ('{"text": "who ?", "label": "a", "kind": ""}\n{"text": "why ?", "label": "b", "kind": "c"}', ".jsonl"),
    ],
)
def test_an_empty_fine_label_is_unknown(content, ending):
    assert read(content, ending, {**COLUMNS, "fine": "kind"}) == [
        LabelledQuestion("a", "", "who ?"), LabelledQuestion("b", "c", "why ?")
    ]  # fmt: skip


def test_a_number_is_a_label_and_other_columns_are_left_alone():
    assert read('{"text": "who ?", "label": 3, "fine": "x"}\n', ".jsonl") == [LabelledQuestion("3", "", "who ?")]


def test_quoted_line_ends_quotes_and_delimiters_are_part_of_the_text():
    content = 'label,text\r\n a ,"two\r\nlines,\rand a ""quote"""\r\nb,"plain"\r\n'
    assert numbered(content, ".csv") == [
        (2, LabelledQuestion("a", "", 'two\r\nlines,\rand a "quote"')), (5, LabelledQuestion("b", "", "plain"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f'{HEADER}"two\nlines",a\nwho ?\n', "x.csv:4: 1 fields, 2 columns; 1 such line(s) to correct: 4"),
        (f"{HEADER}who ?,a,b\nwho ?,a\n", "x.csv:2: 3 fields, 2 columns"),
        (f"{HEADER}  ,a\n", "x.csv:2: text is empty"),
        (f"{HEADER}who ?, \n", "x.csv:2: label is empty"),
        (f"{HEADER}who ?,{'a' * 201}\n", "x.csv:2: label is 201 characters long, expected at most 200"),
        (f"{HEADER}who ?,a\x07\n", "x.csv:2: label holds the control character '\\x07'"),
        (f'{HEADER}who ?,a\n"who" ?,a\n', "x.csv:3: ',' expected after '\"'"),
        (f'{HEADER}who ?,a\n"who ?,a\n', "x.csv:3: unexpected end of data"),
        ("question,label\nwho ?,a\n", "x.csv:1: no column 'text', which fetch.columns of params.yaml names; "
         "columns are: question, label"),
        ("text,label,text\nwho ?,a,b\n", "x.csv:1: two or more columns 'text'"),
        (HEADER.encode() + b"who ?,a\rwh\xe9n ?,a\n", "x.csv:3: byte 0xe9 is not UTF-8; convert the file from "),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_file_and_line(content, told):
    assert told in refused(content, ".csv")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "'{' is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ('["who ?", "a"]', "is not a JSON object"),
        ('{"text": "who ?", "lable": "a"}', "no 'label', which fetch.columns of params.yaml names; keys are: text"),
        ('{"text": "who ?", "label": "old", "label": "a"}', "two or more 'label', which fetch.columns"),
        ('{"text": null, "label": "a"}', "text is None, expected a text"),
        ('{"text": 1, "label": "a"}', "text is 1, expected a text"),
        ('{"text": {"a": 1}, "label": "a"}', "text is (('a', 1),), expected a text"),
        ('{"text": "who ?", "label": true}', "label is True, expected a text"),
        ('{"text": "who ?", "label": 1.5}', "label is 1.5, expected a text"),
        ('{"text": " ", "label": "a"}', "text is empty"),
        ('{"text": "who \\ud800", "label": "a"}', "text holds half a character"),
    ],
)  # fmt: skip
def test_a_bad_object_is_refused_with_file_and_line(line, told):
    fine = '{"text": "who ?", "label": "a"}'
    message = refused(f"{fine}\n{line}\n{fine}\n", ".jsonl")
    assert message.startswith("x.jsonl:2: ")
    assert told in message
    assert message.endswith("1 such line(s) to correct: 2")


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        (b"HUM:ind Who ?\n", "ascii", "Who ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode("latin-1"), "cp1252", "Ren\u00e9 ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode(), "utf-8-sig", "Ren\u00e9 ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode("utf-8-sig"), "utf-8-sig", "Ren\u00e9 ?"),
        ("HUM:ind \u201cRen\u00e9\u201d ?\n".encode("windows-1252"), "cp1252", "\u201cRen\u00e9\u201d ?"),
        (b"HUM:ind \x81\x8d\x8f\x90\x9d\xe9 ?\n", "cp1252", "\x81\x8d\x8f\x90\x9d\u00e9 ?"),  # not in Windows-1252
        (("HUM:ind " + "x" * ((1 << 20) - 9) + "é ?").encode(), "utf-8-sig", "x" * ((1 << 20) - 9) + "é ?"),
        (b"HUM:ind Who \xc3", "cp1252", "Who Ã"),  # half a character at the end
    ],
    ids=["ascii", "latin-1", "utf-8", "mark", "windows-1252", "undefined", "a character across 1 MiB", "half"],
)
def test_a_label_file_is_read_in_what_it_is_written_in(content, encoding, text):
    assert label_encoding(io.BytesIO(content)) == encoding
    assert read(content) == [LabelledQuestion("HUM", "ind", text)]


@pytest.mark.parametrize("ending", [".label", ".csv", ".jsonl", ".txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_recognized(ending, encoding):
    told = refused("HUM:ind Who is it ?\n".encode(encoding), ending)
    assert told == f"x{ending}:1: is UTF-16, not UTF-8; convert it: iconv -f utf-16 -t utf-8 FILE > NEW"


def test_eight_bytes_tell_utf16():
    assert "is UTF-16" in refused("who?".encode("utf-16-le"), ".txt")
    assert "is UTF-16" in refused("who?".encode("utf-16-be"), ".txt")


def test_bytes_that_are_not_utf8_are_refused_with_the_command_that_converts_them():
    assert "x.label:1: byte 0xe9 is not UTF-8" in refused(b"\xef\xbb\xbfHUM:ind Ren\xe9 ?\n")
    assert "x.txt:2: byte 0x93 is not UTF-8" in (told := refused(b"why ?\n\x93who\x94 ?\n", ".txt"))
    assert told.endswith("iconv -f windows-1252 -t utf-8 FILE > NEW")


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        ("\nA:b one\n \r\nA:b two\n\n\n", ".label"),
        ("text,label\n\none,A\n\r\ntwo,A\n\n \n", ".csv"),
        ('{"text": "one", "label": "A"}\n\n{"text": "two", "label": "A"}\n\n', ".jsonl"),
    ],
)
def test_blank_lines_are_passed_over(content, ending):
    assert [question.text for question in read(content, ending)] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        ("one\n\n \ntwo\n\n", ".txt"),
        ('text\none\n \n\u200b\n""\ntwo\n', ".csv"),
        ('{"text": "one"}\n{"text": " "}\n\n{"text": "two"}\n', ".jsonl"),
    ],
)
def test_empty_texts_are_refused_or_left_out_and_the_others_keep_their_numbers(content, ending):
    assert "is empty; " in refused(content, ending, {"text": "text"})
    texts = [(line, question.text) for line, question in numbered(content, ending, {"text": "text"}, skip_empty=True)]
    lines = content.splitlines()
    assert texts == [(number, text) for text in ("one", "two") for number, line in enumerate(lines, 1) if text in line]
    assert "text is None" in refused('{"text": null}', ".jsonl", {"text": "text"}, skip_empty=True)


def test_a_label_is_one_class_however_unicode_writes_it():
    same = ["caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9", " caf\u00e9\ufeff "]
    content = "".join(f"{json.dumps({'text': 'who ?', 'label': label})}\n" for label in same)
    assert {question.coarse for question in read(content, ".jsonl")} == {"caf\u00e9"}
    assert read('text,label\nwho ?,"two\n lines"\n', ".csv")[0].coarse == "two lines"


def test_classes_that_differ_in_letter_case_alone_are_named():
    assert case_twins(["loc", "HUM", "Loc", "NUM", "LOC"]) == [("LOC", "Loc"), ("LOC", "loc"), ("Loc", "loc")]
    assert case_twins(["STRASSE", "straße"]) == [("STRASSE", "straße")]
    assert case_twins(["a", "b"]) == []


def test_texts_are_compared_without_regard_to_case_in_any_language():
    assert normalize_text("STRASSE  \u200bin\nK\u00d6LN") == normalize_text("Stra\u00dfe in Ko\u0308ln")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".label"])
def test_texts_of_any_length_are_read(ending):
    text = "dog " * 50_000 + "?"
    content = {".csv": f"text,label\n{text},A\n", ".jsonl": json.dumps({"text": text, "label": "A"})}
    assert read(content.get(ending, f"A:b {text}"), ending)[0].text == text


def test_the_example_is_what_the_readme_says():
    questions = read((ROOT / "data/own/tickets.csv").read_bytes(), ".csv", {"text": "message", "label": "topic"})
    assert len(questions) == len({question.text for question in questions}) == 80
    topics = [question.coarse for question in questions]
    assert {topic: topics.count(topic) for topic in topics} == dict.fromkeys(
        ["billing", "delivery", "account", "product"], 20
    )
