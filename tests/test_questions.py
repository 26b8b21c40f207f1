"""The formats that questions are read from."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.errors import QcError
from qc.questions.encodings import label_encoding
from qc.questions.formats import LabelledQuestion, parse_questions
from qc.questions.text import fault_of_label, fault_of_text, normalize_label
from tests.conftest import ROOT

C1 = "".join(map(chr, range(0x80, 0xA0)))  # where Windows-1252 has quotes and dashes
LATIN = st.characters(max_codepoint=255, exclude_characters=f"\n\r{C1}")
WORDS = st.characters(max_codepoint=255, exclude_categories=["Cc", "Cf", "Zs"])
NAMES = st.text(WORDS.filter(lambda character: character != ":"), min_size=1)
FINE = st.text(WORDS, min_size=1)
LABEL_FILE_TEXTS = st.text(LATIN, min_size=1).filter(lambda text: fault_of_text(text) is None)
LABELS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).map(normalize_label)
LABELS = LABELS.filter(lambda label: fault_of_label(label) is None)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: fault_of_text(text) is None)
COLUMNS = {"text": "text", "label": "label", "fine": None}
FINE_COLUMNS = {"text": "what was asked", "label": "class", "fine": "kind"}


def read(content, ending=".label", columns=None):
    return list(parse_questions(io.BytesIO(content), ending, columns or COLUMNS, f"x{ending}"))


def refused(content, ending, columns=None):
    with pytest.raises(QcError) as caught:
        read(content if isinstance(content, bytes) else content.encode(), ending, columns)
    return str(caught.value)


@given(st.lists(st.builds(LabelledQuestion, NAMES, FINE, LABEL_FILE_TEXTS), min_size=1))
def test_every_well_formed_label_file_is_read_as_it_was_written(questions):
    content = "".join(f"{q.coarse}:{q.fine} {q.text}\n" for q in questions).encode("latin-1")
    assert read(content) == questions


def test_colons_and_odd_line_ends_inside_a_question_are_part_of_it():
    content = b"DESC:def What is : a colon \xa7 and\x0b\x1c such ?\nNUM:count:odd How many ?\r\n"
    assert read(content) == [
        LabelledQuestion("DESC", "def", "What is : a colon \xa7 and\x0b\x1c such ?"),
        LabelledQuestion("NUM", "count:odd", "How many ?"),
    ]


def test_a_last_line_without_line_end_counts():
    assert len(read(b"A:b one\nA:b two")) == 2


@pytest.mark.parametrize("line", ["NUM", "NUM:count", "NUM:count ", "NUM:count   ", "NUM How many", ":x y", "N: y"])
def test_a_malformed_line_is_refused_with_file_and_line(line):
    with pytest.raises(QcError, match=r"^x\.label:2: .*1 such line.*: 2$"):
        read(f"A:b fine\n{line}\nA:b fine\n".encode())


def test_the_first_ten_malformed_lines_are_named_and_all_are_counted():
    told = refused(b"wrong\n" * 13, ".label")
    assert "13 such line(s)" in told
    assert told.endswith("1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more")


@pytest.mark.parametrize("ending", [".label", ".jsonl"])
def test_an_empty_file_is_refused(ending):
    assert refused(b"", ending) == f"x{ending}: empty; expected one question a line"


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t")])
@given(rows=st.lists(st.tuples(LABELS, LABELS, TEXTS), min_size=1), bom=st.booleans())
def test_every_table_that_is_quoted_as_it_should_be_is_read_as_it_was_written(ending, delimiter, rows, bom):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["id", "kind", "what was asked", "class"])
    writer.writerows([number, fine, text, coarse] for number, (coarse, fine, text) in enumerate(rows))
    content = out.getvalue().encode("utf-8-sig" if bom else "utf-8")
    assert read(content, ending, FINE_COLUMNS) == [LabelledQuestion(*row) for row in rows]


@given(rows=st.lists(st.tuples(LABELS, LABELS, TEXTS), min_size=1), escaped=st.booleans())
def test_every_file_of_objects_is_read_as_it_was_written(rows, escaped):
    objects = [{"kind": fine, "what was asked": text, "class": coarse, "other": None} for coarse, fine, text in rows]
    content = "".join(f"{json.dumps(each, ensure_ascii=escaped)}\n" for each in objects).encode()
    assert read(content, ".jsonl", FINE_COLUMNS) == [LabelledQuestion(*row) for row in rows]


def test_without_a_column_of_fine_labels_there_are_none():
    assert read(b"text,label\nwho ?,a\n", ".csv") == [LabelledQuestion("a", "", "who ?")]
    assert read(b'{"text": "who ?", "label": 3}\n', ".jsonl") == [LabelledQuestion("3", "", "who ?")]


def test_quoted_line_ends_quotes_and_delimiters_are_part_of_the_text():
    content = b'label,text\r\n a ,"two\r\nlines, and a ""quote"""\r\nb,"plain"\r\n'
    assert read(content, ".csv") == [
        LabelledQuestion("a", "", 'two\r\nlines, and a "quote"'), LabelledQuestion("b", "", "plain")
    ]  # fmt: skip


HEADER = "text,label\n"


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
        ("", "x.csv:1: no column 'text'"),
        (HEADER, "x.csv: empty"),
        (HEADER.encode() + b"who ?,a\nwh\xe9n ?,a\n", "x.csv:3: byte 0xe9 is not UTF-8; convert the file from "),
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
        ('{"text": null, "label": "a"}', "text is None, expected a text"),
        ('{"text": 1, "label": "a"}', "text is 1, expected a text"),
        ('{"text": "who ?", "label": true}', "label is True, expected a text"),
        ('{"text": "who ?", "label": 1.5}', "label is 1.5, expected a text"),
        ('{"text": " ", "label": "a"}', "text is empty"),
        ('{"text": "who \\ud800", "label": "a"}', "text holds half a character"),
    ],
)  # fmt: skip
def test_a_bad_object_is_refused_with_file_and_line(line, told):
    fine = '{"text": "who ?", "label": "a"}'
    found = refused(f"{fine}\n{line}\n{fine}\n", ".jsonl")
    assert found.startswith("x.jsonl:2: ")
    assert told in found
    assert found.endswith("1 such line(s) to correct: 2")


@given(st.binary(), st.sampled_from([".label", ".csv", ".tsv", ".jsonl"]))
def test_no_bytes_do_anything_but_be_read_or_refused(content, ending):
    try:
        questions = read(content, ending)
    except QcError as error:
        assert str(error).startswith(f"x{ending}:")
    else:
        assert all(question.coarse and question.text.strip() for question in questions)


def test_the_example_is_what_the_readme_says():
    content = (ROOT / "data/own/tickets.csv").read_bytes()
    questions = read(content, ".csv", {"text": "message", "label": "topic", "fine": None})
    assert len(questions) == len({question.text for question in questions}) == 80
    topics = [question.coarse for question in questions]
    assert {topic: topics.count(topic) for topic in topics} == dict.fromkeys(
        ["billing", "delivery", "account", "product"], 20
    )


def test_a_label_may_be_parted_by_any_white_space():
    assert read(b"HUM:ind\tWho is 1 ?\nNUM:count\t How many ?\n") == [
        LabelledQuestion("HUM", "ind", "Who is 1 ?"),
        LabelledQuestion("NUM", "count", " How many ?"),
    ]


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        (b"HUM:ind Who ?\n", "ascii", "Who ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode("latin-1"), "cp1252", "Ren\u00e9 ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode(), "utf-8-sig", "Ren\u00e9 ?"),
        ("HUM:ind Ren\u00e9 ?\n".encode("utf-8-sig"), "utf-8-sig", "Ren\u00e9 ?"),
        ("HUM:ind \u201cRen\u00e9\u201d ?\n".encode("windows-1252"), "cp1252", "\u201cRen\u00e9\u201d ?"),
        (b"HUM:ind \x81\xe9 ?\n", "cp1252", "\x81\u00e9 ?"),  # 0x81 is nothing in Windows-1252
    ],
)
def test_a_label_file_is_read_in_what_it_is_written_in(content, encoding, text):
    assert label_encoding(io.BytesIO(content)) == encoding
    assert read(content) == [LabelledQuestion("HUM", "ind", text)]


@pytest.mark.parametrize("ending", [".label", ".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_recognized(ending, encoding):
    assert f"x{ending}:1: is UTF-16, not UTF-8; convert the file: iconv -f utf-16 " in refused(
        "HUM:ind Who is it ?\n".encode(encoding), ending
    )


def test_a_mark_of_utf8_before_other_bytes_is_refused():
    assert "x.label:1: byte 0xe9 is not UTF-8" in refused(b"\xef\xbb\xbfHUM:ind Ren\xe9 ?\n", ".label")


def test_windows_own_encoding_is_what_the_advice_converts_from():
    told = refused(HEADER.encode() + b"\x93who\x94 ?,a\n", ".csv")
    assert "iconv -f windows-1252 -t utf-8 x.csv" in told


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (b"\nA:b one\n \r\nA:b two\n\n\n", ".label"),
        (b"text,label\n\none,A\n\r\ntwo,A\n\n \n", ".csv"),
        (b'{"text": "one", "label": "A"}\n\n{"text": "two", "label": "A"}\n\n', ".jsonl"),
    ],
)
def test_blank_lines_are_passed_over(content, ending):
    assert [question.text for question in read(content, ending)] == ["one", "two"]


def test_a_label_is_one_class_however_unicode_writes_it():
    same = ["caf\u00e9", "cafe\u0301", "ca\u200bf\u00e9", " caf\u00e9\ufeff "]
    content = "".join(f"{json.dumps({'text': 'who ?', 'label': label})}\n" for label in same).encode()
    assert {question.coarse for question in read(content, ".jsonl")} == {"caf\u00e9"}
    assert read(b'text,label\nwho ?,"two\n lines"\n', ".csv")[0].coarse == "two lines"


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".label"])
def test_texts_of_any_length_are_read(ending):
    text = "dog " * 50_000 + "?"
    content = {".csv": f"text,label\n{text},A\n", ".jsonl": json.dumps({"text": text, "label": "A"})}
    assert read(content.get(ending, f"A:b {text}").encode(), ending)[0].text == text
