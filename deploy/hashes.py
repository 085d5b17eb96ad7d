"""Requirements with hashes from a folder of wheels: `python deploy/hashes.py wheels > wheels/requirements.txt`.

`pip install --no-index --find-links wheels --require-hashes -r wheels/requirements.txt` then installs these very files
or none. It needs nothing but Python.
"""

import hashlib
import sys
from pathlib import Path


def requirements(wheels_dir: Path) -> str:
    """A line per wheel, `name==version --hash=sha256:...`, in the order of names."""
    lines = []
    for path in sorted(wheels_dir.glob("*.whl")):
        name, version, *_ = path.name.split("-")
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    return "".join(lines)


if __name__ == "__main__":
    print(requirements(Path(sys.argv[1])), end="")
