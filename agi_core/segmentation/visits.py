"""The files of a folder by subject, visit and modality, segmentations among them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from agi_core.data.scan_files import scan_files
from agi_core.errors import DataError
from agi_core.layouts import LAYOUTS

SEG = "seg"


def read_visits(folder_dir: Path, layout: str) -> dict[tuple[str, str], dict[str, Path]]:
    """{(subject, session): {modality: file}} of a folder, its segmentations among them.

    Raises:
        DataError: the folder cannot be read, or has two files of one modality of a visit.
    """
    visits: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for (subject, session, modality), paths in named_scans(folder_dir, layout).items():
        visits[subject, session][modality] = only(paths)
    return visits


def named_scans(folder_dir: Path, layout: str) -> dict[tuple[str, str, str], list[Path]]:
    """{(subject, session, modality): files} of what fits the layout's names."""
    found = defaultdict(list)
    modalities = LAYOUTS[layout].modalities
    for name in scan_files(folder_dir)[0]:
        if match := LAYOUTS[layout].scan.fullmatch(name):
            groups = match.groupdict()
            modality = modalities.get(groups["modality"], groups["modality"])
            found[groups["subject"], groups.get("session") or "", modality].append(folder_dir / name)
    return found


def only(paths: Sequence[Path]) -> Path:
    """The file where there is one alone. Raises DataError where there are several."""
    if len(paths) > 1:
        raise DataError(
            f"{paths[0]} and {paths[1]} are the same modality of one visit. Leave one of them in the folder."
        )
    return paths[0]
