"""What tests/test_portable.py runs on an emulated processor: `python -m tests.portable`, in a project.

Trains the three models and evaluates them in one process, since starting one under emulation takes most of the time.
"""

from qc.config.settings import Settings
from qc.paths import Folders
from qc.stage import run


def main(settings: Settings) -> None:
    from qc.models.registry import MODELS
    from qc.training.run import run_training
    from stages import evaluate

    for name in MODELS:
        run_training(name, settings, Folders())
    evaluate.main(settings)


if __name__ == "__main__":
    run(main)
