"""The commands of `qc`, one module each, listed in `qc.__main__`.

A module has `add_arguments(parser)` and `run(arguments)`, which returns the exit status. `qc COMMAND --help` prints its
docstring.
"""
