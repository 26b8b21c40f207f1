"""What every stage starts with: where things are, checked settings, and errors as messages.

`python -m stages.entry` checks params.yaml and does nothing else.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from qc.errors import QcError
from qc.schema import read
from qc.settings import Settings
from qc.sources import Sources

PARAMS = Path("params.yaml")
SOURCES = Path("data/sources.yaml")
RAW = Path("data/raw")
ENCODERS = Path("data/encoders")
TOKENIZED = Path("data/tokenized")
SPLIT = Path("data/split")
MODELS = Path("models")
METRICS = Path("metrics")
PLOTS = Path("plots")


def load_settings() -> Settings:
    """Read and check params.yaml, all of it, so that a bad value anywhere is refused before anything runs."""
    settings = read(Settings, PARAMS, str(PARAMS))
    load_sources().check_vocabularies(list(settings.encoders_used()))
    return settings


def load_sources() -> Sources:
    """Read and check data/sources.yaml."""
    return read(Sources, SOURCES, str(SOURCES))


def run(main: Callable[[Settings], None]) -> None:
    """Run a stage: settings in, one message and status 1 for an error that the user can put right."""
    try:
        main(load_settings())
    except QcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to go on")


if __name__ == "__main__":
    run(lambda settings: print(f"{PARAMS}: checked"))
