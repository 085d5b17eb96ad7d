"""Imported first by every program: it ends the program with a sentence where our packages are not installed, before an
import fails with a traceback."""

import sys
from importlib.util import find_spec

if find_spec("omegaconf") is None:
    print(
        f"error: {sys.executable} has not the packages of AGI-Fed; in the folder of this repository type: make install,"
        " and then: source .venv/bin/activate",
        file=sys.stderr,
    )
    sys.exit(2)
