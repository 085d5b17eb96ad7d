"""A quota for the cache of prepared scans: what was not used for longest goes first.

Every scenario and grid makes entries of its own, and each can be made again from the scans. The time of an entry's last
use is its time of modification, which `Preparation.open` sets.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path


def cached_bytes(paths: Collection[Path]) -> int:
    """The size of those of these entries that are still there."""
    return sum(path.stat().st_size for path in paths if path.exists())


def drop_oldest(cache_dir: Path, *, most_bytes: int, keep: Collection[Path]) -> int:
    """Delete entries of the cache, the least recently used first, until the rest is at most `most_bytes`.

    Those in `keep` stay, whatever their size. Another process may do the same at once.

    Returns:
        How many were deleted.
    """
    entries = []
    for path in cache_dir.glob("*/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            entries.append((status.st_mtime_ns, path, status.st_size))
    total, dropped = sum(size for *_, size in entries), 0
    for _, path, size in sorted(entries):
        if total <= most_bytes:
            break
        if path not in keep:
            path.unlink(missing_ok=True)
            total, dropped = total - size, dropped + 1
    return dropped
