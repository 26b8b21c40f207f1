"""Score the settings of a model by cross-validation on the questions of train and validation.

    qc cross-validate prefix                                 the settings of params.yaml
    qc cross-validate prefix epochs=24 label_smoothing=0.1   and, beside them, the same with these changes

The data is that of the last `dvc repro split`. The test split has no part in it. The standard error of an accuracy is
over the questions; that of the difference is smaller, since both settings answer the same questions.
"""

from argparse import ArgumentParser, Namespace

from qc.commands.cross_validation import change_settings, cross_validate
from qc.commands.tables import standard_error
from qc.errors import QcError
from qc.evaluation.metrics import mcnemar_p
from qc.evaluation.tables import markdown
from qc.models.registry import MODELS
from qc.paths import PARAMS, Folders
from qc.stage import load_settings
from qc.training.data import load_training_data

FOLDS = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", choices=MODELS)
    parser.add_argument(
        "changes", nargs="*", default=[], metavar="KEY=VALUE", help="of the model's section of params.yaml"
    )
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"number of folds; default: {FOLDS}")
    parser.add_argument("--seeds", type=int, default=1, help="number of training seeds; default: 1")


def run(arguments: Namespace) -> int:
    """Cross-validate and print the table; the exit status."""
    if arguments.seeds < 1:
        raise QcError(f"--seeds: invalid value {arguments.seeds}; expected 1 or more")
    settings, model = load_settings(), arguments.model
    compared = {PARAMS.name: change_settings(settings, model, [])}
    if arguments.changes:
        title = " ".join(arguments.changes)
        compared[title] = change_settings(settings, model, arguments.changes)
        try:  # what the encoder does not allow is refused before anything is trained
            load_training_data(model, compared[title], Folders())
        except QcError as error:
            if not str(error).startswith(f"{PARAMS}: "):
                raise
            raise QcError(f"invalid change {title!r}: {str(error).removeprefix(f'{PARAMS}: ')}") from None
    seeds = range(settings.seed, settings.seed + arguments.seeds)
    scores = cross_validate(model, compared, Folders(), arguments.folds, seeds)
    rows = []
    for title, score in scores.items():
        error = standard_error(score.accuracy, len(score.correct))
        rows.append([title, len(score.correct), f"{score.accuracy:.4f}", f"{error:.4f}", f"{score.loss:.4f}"])
    print(markdown([f"train_{model}", "questions", "accuracy", "standard error", "loss"], rows))
    if arguments.changes:
        before, after = (score.correct for score in scores.values())
        won, lost, gain = after > before, after < before, after - before
        error = gain.std(ddof=1) / len(gain) ** 0.5
        print(
            f"difference in accuracy: {gain.mean():+.4f}, its standard error {error:.4f}; {won.sum()} questions won, "
            f"{lost.sum()} lost: exact McNemar p = {mcnemar_p(won, lost):.2g}"
        )
    return 0
