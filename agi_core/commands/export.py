"""`python -m agi_core export`: a run's model as one zip."""

import argparse

from agi_core.export.export import BEGINNING, export


def run(arguments: argparse.Namespace) -> None:
    """Write the zip."""
    print(BEGINNING, flush=True)
    print(export(arguments.run, arguments.out, best=arguments.weights == "best"))
