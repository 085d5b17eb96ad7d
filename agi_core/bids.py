"""Synthetic scans as BIDS derivatives: `sub-X[/ses-Y]/anat/sub-X[_ses-Y]_..._desc-synth_PDw.nii.gz`, with what BIDS
wants beside them."""

import json
import os
import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.layouts import LAYOUTS
from agi_core.scenario import modality_parts

BIDS_VERSION = "1.10.0"
DESCRIPTION = "synth"
GENERATOR = "AGI-Fed"
_ORDER = (
    *("sample", "task", "tracksys", "acq", "nuc", "voi", "ce", "trc", "stain", "rec", "dir", "run", "mod", "echo"),
    *("flip", "inv", "mt", "part", "proc", "hemi", "space", "split", "recording", "chunk", "atlas", "seg", "scale"),
    *("res", "den", "label"),
)
"""The entities between session and `desc-` in a name, as BIDS orders them; others come last."""
_SCAN = re.compile(rf"(?:.*/)?(?P<inside>{LAYOUTS['bids'].scan.pattern})")


def derivative_path(folder: Path, *, like: Path, target: str) -> Path:
    """Where a target goes that was made on the grid of the scan `like`. BIDS has one `desc-` in a name, so the target's
    own, such as `desc-preproc`, is left out.

    Raises:
        DataError: `like` has no name of BIDS.
    """
    match = _scan(like)
    session, (suffix, entities) = match["session"], modality_parts(target)
    kept = sorted((entity for entity in entities if not entity.startswith("desc-")), key=_place)
    parts = [match["subject"], *([session] if session else []), *kept, f"desc-{DESCRIPTION}", suffix]
    visit = folder / match["subject"] / session if session else folder / match["subject"]
    return visit / "anat" / f"{'_'.join(parts)}.nii.gz"


def _place(entity: str) -> tuple[int, str]:
    """What an entity is sorted by in a name."""
    name = entity.partition("-")[0]
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), entity


def check_folder(folder: Path) -> None:
    """Raise DataError where a folder for derivatives is another data set, whose description would be lost."""
    path = folder / "dataset_description.json"
    if not path.exists():
        return
    try:
        made_by = [str(program["Name"]) for program in json.loads(path.read_bytes())["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError):
        made_by = []
    if GENERATOR not in made_by:
        raise DataError(
            f"{folder} is another data set, as {path.name} says. Give --out a folder of its own, such as"
            " derivatives/agifed."
        )


def describe(out_path: Path, *, folder: Path, sources: Mapping[str, Path], target: str, release: str) -> None:
    """Write `dataset_description.json` of the folder and the sidecar of a scan in it. The description says where the
    data sets are that the sidecar's sources lie in. Raises RunError."""
    links, uris = _known_links(folder), []
    for path in sources.values():
        inside = _scan(path)["inside"]
        root = Path(path.absolute().as_posix().removesuffix(inside))
        uris.append(f"bids:{_link_to(root, folder=folder, links=links)}:{inside}")
    generated = {"Name": GENERATOR, "Version": release, "Description": "synthetic MR; not for diagnosis"}
    description = {
        "Name": "Synthetic MR by AGI-Fed",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
        "DatasetLinks": links,
    }
    atomic.write_json(folder / "dataset_description.json", description)
    sidecar = {
        "Description": f"synthetic {target} from {', '.join(sources)}; not for diagnosis",
        "Sources": uris,
        "Units": "arbitrary",
        "IntensityRange": "0 to 1 = percentiles 0.5 to 99.5 of a real scan",
    }
    atomic.write_json(sidecar_path(out_path), sidecar)


def _known_links(folder: Path) -> dict[str, str]:
    """{name: place} of the data sets that an earlier scan of the folder was made from."""
    try:
        return {**json.loads((folder / "dataset_description.json").read_bytes())["DatasetLinks"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _link_to(root: Path, *, folder: Path, links: dict[str, str]) -> str:
    """The name of a data set among the links, to which it is added. Derivatives are called as their folder, others
    `raw`."""
    place = os.path.relpath(root, folder.absolute())
    name = re.sub(r"[^A-Za-z0-9]", "", root.name) if root.parent.name == "derivatives" else ""
    for number in count(1):
        link = f"{name or 'raw'}{number if number > 1 else ''}"
        if links.setdefault(link, place) == place:
            break
    return link


def sidecar_path(scan: Path) -> Path:
    """The JSON that belongs to a scan `.nii.gz`."""
    return scan.with_name(scan.name.removesuffix(".nii.gz") + ".json")


def _scan(path: Path) -> re.Match[str]:
    match = _SCAN.fullmatch(path.absolute().as_posix())  # of a link, as git-annex makes them, its own name
    if match is None:
        raise DataError(f"{path} has no name of BIDS, such as {LAYOUTS['bids'].example}. Leave --layout out.")
    return match
