"""Lines of JSON that nobody can change unseen: each has its number, the hash of the line before it, and its own hash.

A line that was changed, left out, added or moved shows at once. Missing lines at the end do not show: somebody else has
to know the last hash.
"""

import hashlib
import json
from typing import Any

Record = dict[str, Any]


def seal(record: Record, *, n: int, previous: str) -> str:
    """Line `n` (from 0) in canonical JSON, after the line whose hash is `previous` ("" before the first)."""
    content = {**record, "n": n, "previous": previous}
    return _canonical({**content, "hash": sha256(_canonical(content))})


def unseal(line: bytes, *, n: int, previous: str) -> Record:
    """The record of a line, with its "n", "previous" and "hash".

    Raises:
        ValueError: the bytes are not those of line `n` after the line with hash `previous`.
    """
    try:
        record: Record = json.loads(line)
        content = {name: value for name, value in record.items() if name not in ("n", "previous", "hash")}
        if seal(content, n=n, previous=previous).encode() == line:
            return record
    except (ValueError, AttributeError):  # no JSON, or no record
        pass
    raise ValueError(f"line {n + 1} is damaged, or not the one that was written there")


def sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _canonical(record: Record) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
