"""The files of a folder by subject, visit and modality, segmentations among them."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from agi_core.bids import DESCRIPTION
from agi_core.data.scan_files import scan_files
from agi_core.data.scans import full_modality
from agi_core.errors import DataError
from agi_core.layouts import LAYOUTS

SEG = "seg"
MODALITIES = ("t1n", "t1c", "t2w", "t2f")  # that the segmentation network is given


def read_visits(folder_dir: Path, layout: str) -> dict[tuple[str, str], dict[str, Path]]:
    """{(subject, session): {modality: file}} of a folder, its segmentations among them.

    Raises:
        DataError: the folder cannot be read, or has two files of one modality of a visit.
    """
    visits: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for (subject, session, modality), paths in named_scans(folder_dir, layout).items():
        visits[subject, session][modality] = only(paths)
    return visits


def named_scans(folder_dir: Path, layout: str, *, asked: Iterable[str] = ()) -> dict[tuple[str, str, str], list[Path]]:
    """{(subject, session, modality): files} of what fits the layout's names and is a file; it and a link to it are one.

    The modality is the full one, `T1w[ce-gadolinium]`, as `agi_core.data.scans.discover` names it where `asked` are the
    modalities of the scenario. That a volume is synthetic (`desc-synth`) is no part of it.
    """
    found: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    names = LAYOUTS[layout]
    for path in scan_files(folder_dir)[0]:
        match = names.scan.fullmatch(path)
        if match and os.path.isfile(folder_dir / path):  # a link may lead to nothing, or to itself
            groups = match.groupdict()
            name = names.modalities.get(groups["modality"], groups["modality"])
            entities = [e for e in (groups.get("entities") or "").split("_")[1:] if e != f"desc-{DESCRIPTION}"]
            modality = full_modality(name, entities, asked, neutral=names.neutral)
            paths = found[groups["subject"], groups.get("session") or "", modality]
            if (folder_dir / path).resolve() not in [other.resolve() for other in paths]:
                paths.append(folder_dir / path)
    return found


def only(paths: Sequence[Path]) -> Path:
    """The file where there is one alone. Raises DataError where there are several."""
    if len(paths) > 1:
        raise DataError(
            f"{paths[0]} and {paths[1]} are the same modality of one visit. Leave one of them in the folder."
        )
    return paths[0]
