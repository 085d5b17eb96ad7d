"""The direction of imports: who may know whom, and which library is used where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"agi_core", "client", "server", "simulations"}
MAY_IMPORT = {
    "agi_core": set(),
    "client": {"agi_core"},
    "server": {"agi_core"},
    "simulations": {"agi_core", "client", "server"},
}
CLIENT_STAIRS = ("site", "border", "work", "app", "process", "check", "__main__")  # each may import what is before it
ONLY_IN = {  # library -> paths (files or folders) that may import it
    "flwr": ("client/app.py", "client/process/", "server/", "simulations/"),
    "opacus": ("agi_core/privacy/",),
    "nibabel": ("agi_core/data/header.py", "agi_core/data/nifti.py"),
    "omegaconf": ("agi_core/config/structured.py",),
    "yaml": ("agi_core/config/",),
    "matplotlib": ("agi_core/report/",),
    "onnx": ("agi_core/export/",),
    "onnxruntime": ("agi_core/export/",),
    "pydicom": ("agi_core/data/dicom.py",),
    "rich": (
        "agi_core/host/console.py",
        *("simulations/", "agi_core/commands/"),
        *("client/__main__.py", "client/process/join.py", "client/process/terminal.py", "client/check/commands.py"),
        "server/watch.py",
    ),
    "ray": ("simulations/ray_engine.py",),
}
MODULES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_packages_point_one_way(path: Path) -> None:
    package = place(path).split("/")[0]
    for name in imported(path):
        top = name.split(".")[0]
        if top in OURS - {package}:
            assert top in MAY_IMPORT[package], f"{place(path)} may not import {name}"


@pytest.mark.parametrize("path", [path for path in MODULES if place(path).startswith("client/")], ids=place)
def test_the_rooms_of_the_client_are_a_staircase(path: Path) -> None:
    room = place(path).split("/")[1].removesuffix(".py")
    for name in imported(path):
        if name.startswith("client."):
            other = name.split(".")[1]
            assert CLIENT_STAIRS.index(other) <= CLIENT_STAIRS.index(room), f"{place(path)} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    for name in imported(path):
        places = ONLY_IN.get(name.split(".")[0])
        assert places is None or place(path).startswith(places), f"{place(path)} may not import {name}"


def test_the_server_never_reads_scans() -> None:
    readers = tuple(f"agi_core.{name}" for name in ("data", "training", "evaluation", "inference", "voxel_regression"))
    for path in (ROOT / "server").rglob("*.py"):
        assert not [name for name in imported(path) if name.startswith(readers)], place(path)


def test_models_import_torch_alone() -> None:
    allowed = {"torch", "agi_core"} | sys.stdlib_module_names
    for path in (ROOT / "agi_core" / "models").rglob("*.py"):
        names = set(imported(path))
        assert {name.split(".")[0] for name in names} <= allowed, place(path)
        own = {name for name in names if name.startswith("agi_core")}
        assert all(name.startswith(("agi_core.models", "agi_core.errors")) for name in own), place(path)


def test_agi_core_imports_nothing_by_itself() -> None:
    assert not list(imported(ROOT / "agi_core" / "__init__.py"))


@pytest.mark.parametrize(
    "typed", ["agi_core", "agi_core evaluate", "client", "server", "server submit", "simulations.run"]
)
def test_help_needs_nothing_that_takes_seconds_to_import(typed: str) -> None:
    slow = ("torch", "flwr", "nibabel", "matplotlib", "scipy", "opacus", "monai")
    program, *command = typed.split()
    code = f"""
import runpy, sys
sys.argv = ["program", *{command}, "--help"]
try:
    runpy.run_module({program!r}, run_name="__main__", alter_sys=True)
except SystemExit:
    print([name for name in {slow} if name in sys.modules], file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stdout.startswith("usage: ")
    assert run.stderr == "[]\n"


def test_a_hospitals_supervisor_needs_no_torch() -> None:
    """It lives as long as the site takes part, and must end within seconds."""
    code = "import sys, client.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_benchmarks_import_each_other_as_modules_of_their_package() -> None:
    """By its bare name one is found by `python benchmarks/X.py` alone, and not by `python -m benchmarks.X`."""
    benchmarks = sorted((ROOT / "benchmarks").glob("*.py"))
    names = {path.stem for path in benchmarks}
    bare = {path.stem: names & {name.split(".")[0] for name in imported(path)} for path in benchmarks}
    assert {importer: found for importer, found in bare.items() if found} == {}
