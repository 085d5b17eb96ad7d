"""`python -m agi_core export`: a run's model as one zip."""

import argparse
from functools import partial

from agi_core.export.export import export


def run(arguments: argparse.Namespace) -> None:
    """Write the zip."""
    best, announce = arguments.weights == "best", partial(print, flush=True)
    print(export(arguments.run, arguments.out, best=best, on_beginning=announce))
