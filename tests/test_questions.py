"""The label file's grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc.errors import QcError
from qc.labels import LabelledQuestion, parse

LATIN = st.characters(max_codepoint=255, exclude_characters="\n\r")
NAMES = st.text(st.characters(max_codepoint=255, exclude_characters="\n\r :"), min_size=1)
FINE = st.text(st.characters(max_codepoint=255, exclude_characters="\n\r "), min_size=1)
TEXTS = st.text(LATIN, min_size=1).filter(str.strip)


@given(st.lists(st.builds(LabelledQuestion, NAMES, FINE, TEXTS), min_size=1))
def test_every_well_formed_file_is_read_as_it_was_written(questions):
    content = "".join(f"{q.coarse}:{q.fine} {q.text}\n" for q in questions).encode("latin-1")
    assert parse(content, "x.label") == questions


def test_colons_and_odd_line_ends_inside_a_question_are_part_of_it():
    content = b"DESC:def What is : a colon \x85 and\x0b\x1c such ?\nNUM:count:odd How many ?\r\n"
    assert parse(content, "x.label") == [
        LabelledQuestion("DESC", "def", "What is : a colon \x85 and\x0b\x1c such ?"),
        LabelledQuestion("NUM", "count:odd", "How many ?"),
    ]


def test_a_last_line_without_line_end_counts():
    assert len(parse(b"A:b one\nA:b two", "x.label")) == 2


@pytest.mark.parametrize(
    "line", ["", " ", "NUM", "NUM:count", "NUM:count ", "NUM:count   ", "NUM How many", ":x y", "N: y"]
)
def test_a_malformed_line_is_refused_with_file_and_line(line):
    with pytest.raises(QcError, match=r"^x\.label:2: .*1 such line.*: 2$"):
        parse(f"A:b fine\n{line}\nA:b fine\n".encode(), "x.label")


def test_the_first_ten_malformed_lines_are_named_and_all_are_counted():
    with pytest.raises(QcError) as caught:
        parse(b"wrong\n" * 13, "x.label")
    assert "13 such line(s)" in str(caught.value)
    assert str(caught.value).endswith("1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more")


def test_an_empty_file_is_refused():
    with pytest.raises(QcError, match=r"x\.label: empty"):
        parse(b"", "x.label")
