"""Text and labels: what is valid, what counts as equal, and how a model sees a text."""

import unicodedata
from collections.abc import Iterable
from itertools import combinations, groupby

LONGEST_LABEL = 200  # characters; a longer one is a text in the wrong column

# Invisible characters that separate no words; joiners are not among them, since some scripts need them.
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def strip_invisible(text: str) -> str:
    """Remove invisible characters, such as a zero-width space."""
    return text.translate(INVISIBLE)


def normalize_label(label: str) -> str:
    """Bring a label into the form in which labels are compared: NFC, single spaces, nothing invisible."""
    return unicodedata.normalize("NFC", " ".join(strip_invisible(label).split()))


def case_twins(classes: Iterable[str]) -> list[tuple[str, str]]:
    """Pair the class names that differ in letter case alone, such as `Loc` and `loc`."""
    alike = groupby(sorted(classes, key=lambda name: (name.casefold(), name)), key=str.casefold)
    return [pair for _, names in alike for pair in combinations(names, 2)]


def is_empty(text: str) -> bool:
    """Whether a text has no visible character."""
    return not strip_invisible(text).strip()


def fault_of_text(text: object) -> str | None:
    """Say why a text is invalid; None for a valid one."""
    if not isinstance(text, str):
        return f"is {text!r:.80}, expected a text"
    if is_empty(text):
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half a character (a lone surrogate)"
    return None


def fault_of_label(label: str) -> str | None:
    """Say why a normalized label is invalid; None for a valid one."""
    if not label:
        return "is empty"
    if len(label) > LONGEST_LABEL:
        return f"is {len(label)} characters long, expected at most {LONGEST_LABEL}"
    if wrong := next((character for character in label if unicodedata.category(character) in ("Cc", "Cs")), None):
        return f"holds the control character {wrong!r}"
    return None


def normalize_text(text: str) -> str:
    """Bring a text into the form in which texts are compared: NFC, case-folded, single spaces, nothing invisible."""
    return " ".join(unicodedata.normalize("NFC", strip_invisible(text)).casefold().split())


def model_text(text: str, lowercase: bool) -> str:
    """Prepare a text for the tokenizer."""
    return text.lower() if lowercase else text
