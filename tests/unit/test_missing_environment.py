import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [["-m", "client"], ["-m", "server"], ["-m", "agi_core"], ["simulations/run.py"]])
def test_a_python_without_our_packages_is_named(command: list[str]) -> None:
    bare = [sys.executable, "-S", *command]  # without site-packages
    finished = subprocess.run(
        bare, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {sys.executable} has not the packages of AGI-Fed; ")
    assert "source .venv/bin/activate" in finished.stderr
