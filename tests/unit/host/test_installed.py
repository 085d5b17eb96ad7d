import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("package", ["client", "server"])
def test_a_python_without_our_packages_is_named(package: str) -> None:
    bare = [sys.executable, "-S", "-m", package]  # without site-packages
    finished = subprocess.run(
        bare, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {sys.executable} has not the packages of AGI-Fed; ")
    assert "source .venv/bin/activate" in finished.stderr
