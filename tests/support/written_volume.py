"""One synthesised volume, for tests beside this file."""

from pathlib import Path

from agi_core.data.nifti import FloatArray, write_volumes


def write_volume(path: Path, data: FloatArray, *, like: Path, descrip: str) -> None:
    """`write_volumes` with one."""
    write_volumes({path: (data, descrip)}, like=like)
