"""The science: data, model, training, metrics, report. Knows nothing of Flower, servers or networks."""

import sys
from importlib.util import find_spec

if find_spec("omegaconf") is None:  # before the first import that fails with a traceback
    print(
        f"error: {sys.executable} has not the packages of AGI-Fed; in the folder of this repository type: make install,"
        " and then: source .venv/bin/activate",
        file=sys.stderr,
    )
    sys.exit(2)
