"""The one exception meant for the person at the keyboard."""


class QcError(Exception):
    """Something the user can put right; the message says what, where and how.

    Stages print it as one message, without a traceback, and exit with status 1.
    """


def reason(error: OSError) -> str:
    """Why an operation of the system failed, in its own words: `No space left on device`."""
    return error.strerror or str(error)
