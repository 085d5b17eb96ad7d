"""Which release is installed. A run has one program everywhere: another one would train something else under its
name."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("agi_core", "client", "server")


@cache
def release() -> str:
    """This release in words, with the hash of its code and the versions of torch and Flower. The build of torch, for
    this or that GPU, is each machine's own."""
    torch = version("torch").partition("+")[0]
    code = code_hash(Path(__file__).parents[1])
    return f"{version('agi-fed')} (code {code}, torch {torch}, flwr {version('flwr')})"


def code_hash(root: Path) -> str:
    """Ten hexadecimal digits of all Python files of `PACKAGES` below `root`, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:10]
