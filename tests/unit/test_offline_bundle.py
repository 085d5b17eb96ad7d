"""`make bundle` and what a hospital does with it, with a wheel of one line in the place of two gigabytes."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wheels_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "one_line-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("one_line.py", "x = 1\n")
        wheel.writestr("one_line-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: one-line\nVersion: 1.0\n")
        wheel.writestr("one_line-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("one_line-1.0.dist-info/RECORD", "")
    command = [sys.executable, str(ROOT / "deploy" / "hashes.py"), str(folder)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (folder / "requirements.txt").write_text(lines)
    return folder


def install(wheels_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--require-hashes"]
    places = ["--find-links", str(wheels_dir), "--target", str(wheels_dir.parent / "installed")]
    requirements = str(wheels_dir / "requirements.txt")
    return subprocess.run([*command, *places, "-r", requirements], capture_output=True, text=True, check=False)


def test_the_wheels_install_without_an_index(wheels_dir: Path) -> None:
    assert (wheels_dir / "requirements.txt").read_text().startswith("one_line==1.0 --hash=sha256:")
    finished = install(wheels_dir)
    assert finished.returncode == 0, finished.stderr
    assert (wheels_dir.parent / "installed" / "one_line.py").read_text() == "x = 1\n"


def test_a_changed_wheel_is_refused(wheels_dir: Path) -> None:
    with zipfile.ZipFile(wheels_dir / "one_line-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("more.py", "import os\n")
    finished = install(wheels_dir)
    assert finished.returncode != 0
    assert "HASH" in finished.stderr.upper()
    assert not (wheels_dir.parent / "installed").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_install_looks_for_nothing_elsewhere_where_the_wheels_lie(wheels_dir: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, wheels_dir.parent)

    def commands() -> str:
        made = subprocess.run(
            ["make", "--dry-run", "install"], cwd=wheels_dir.parent, capture_output=True, text=True, check=True
        )
        return made.stdout

    pip = [line for line in commands().splitlines() if "pip install" in line]
    assert len(pip) == 2
    assert all("--no-index --find-links wheels" in line for line in pip)
    assert "--require-hashes -r wheels/requirements.txt" in pip[0]
    (wheels_dir / "requirements.txt").unlink()
    assert "--no-index" not in commands()
