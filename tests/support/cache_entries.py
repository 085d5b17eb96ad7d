"""Cache entries made by hand, for tests beside this file."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from agi_core.data.cached_session import CachedSession, open_entry


def write_entry(path: Path, volumes: npt.NDArray[np.float32]) -> CachedSession:
    """An entry of these volumes (D, M, H, W), all of it head; the subject is called like the file."""
    depth, _, height, width = volumes.shape
    entry = {
        "session": "",
        "grid_shape": [width, height, depth],
        "grid_affine": np.eye(4).tolist(),
        "foreground_fraction": [1.0] * depth,
        "source_box": [[0, height], [0, width]],
        "doubts": [],
        "images": {},
    }
    tensors = {
        "volumes": np.ascontiguousarray(volumes, np.float16),
        "foreground": np.ones((depth, height, width), np.bool_),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"entry": json.dumps(entry)})
    session = open_entry(path, subject_id=path.name)
    assert session is not None
    return session
