"""Label files: one question a line, `COARSE:fine question`, in latin-1.

Source: Li and Roth, "Learning Question Classifiers", COLING 2002.
"""

from dataclasses import dataclass

from qc.errors import QcError

MOST_LINES_NAMED = 10


@dataclass(frozen=True)
class LabelledQuestion:
    """One line of a label file: its coarse and fine class, and the question as written."""

    coarse: str
    fine: str
    text: str


def parse(content: bytes, name: str) -> list[LabelledQuestion]:
    """Read a label file.

    The label is all before the first space, its coarse and fine class are parted by its first colon; the question is
    the whole rest of the line, colons included.

    Args:
        content: The file's bytes.
        name: What messages call it.

    Raises:
        QcError: A line has no label or no question, or the file is empty; names the first ten such lines.
    """
    lines = content.decode("latin-1").split("\n")  # not splitlines(): latin-1 text may hold other "line ends"
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise QcError(f"{name}: empty; expected one 'COARSE:fine question' a line")
    parsed = [_parse_line(line.removesuffix("\r")) for line in lines]
    wrong = [number for number, question in enumerate(parsed, start=1) if question is None]
    if wrong:
        named = ", ".join(map(str, wrong[:MOST_LINES_NAMED]))
        more = f" and {len(wrong) - MOST_LINES_NAMED} more" if len(wrong) > MOST_LINES_NAMED else ""
        raise QcError(
            f"{name}:{wrong[0]}: {lines[wrong[0] - 1][:80]!r} is not 'COARSE:fine question'; "
            f"{len(wrong)} such line(s) to put right: {named}{more}"
        )
    return [question for question in parsed if question is not None]


def _parse_line(line: str) -> LabelledQuestion | None:
    label, _, text = line.partition(" ")
    coarse, colon, fine = label.partition(":")
    if not (coarse and colon and fine and text.strip()):
        return None
    return LabelledQuestion(coarse, fine, text)
