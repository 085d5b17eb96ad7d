"""Synthetic scans as BIDS derivatives: `sub-X[/ses-Y]/anat/sub-X[_ses-Y]_..._desc-synth_PDw.nii.gz`, with what BIDS
wants beside them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.layouts import LAYOUTS
from agi_core.scenario import modality_parts

BIDS_VERSION = "1.10.0"
DESCRIPTION = "synth"
GENERATOR = "AGI-Fed"
_SCAN = re.compile(rf"(?:.*/)?(?P<inside>{LAYOUTS['bids'].scan.pattern})")


def derivative_path(folder: Path, *, like: Path, target: str) -> Path:
    """Where a target goes that was made on the grid of the scan `like`. BIDS has one `desc-` in a name, so the target's
    own, such as `desc-preproc`, is left out.

    Raises:
        DataError: `like` has no name of BIDS.
    """
    match = _scan(like)
    session, (suffix, entities) = match["session"], modality_parts(target)
    kept = sorted(entity for entity in entities if not entity.startswith("desc-"))
    parts = [match["subject"], *([session] if session else []), *kept, f"desc-{DESCRIPTION}", suffix]
    visit = folder / match["subject"] / session if session else folder / match["subject"]
    return visit / "anat" / f"{'_'.join(parts)}.nii.gz"


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
    """Write `dataset_description.json` of the folder and the sidecar of a scan in it. Raises RunError."""
    generated = {"Name": GENERATOR, "Version": release, "Description": "synthetic MR; not for diagnosis"}
    description = {
        "Name": "Synthetic MR by AGI-Fed",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
    }
    atomic.write_json(folder / "dataset_description.json", description)
    sidecar = {
        "Description": f"synthetic {target} from {', '.join(sources)}; not for diagnosis",
        "Sources": [f"bids:raw:{_scan(path)['inside']}" for path in sources.values()],
        "Units": "arbitrary",
        "IntensityRange": "0 to 1 = percentiles 0.5 to 99.5 of a real scan",
    }
    atomic.write_json(sidecar_path(out_path), sidecar)


def sidecar_path(scan: Path) -> Path:
    """The JSON that belongs to a scan `.nii.gz`."""
    return scan.with_name(scan.name.removesuffix(".nii.gz") + ".json")


def _scan(path: Path) -> re.Match[str]:
    match = _SCAN.fullmatch(path.absolute().as_posix())  # of a link, as git-annex makes them, its own name
    if match is None:
        raise DataError(f"{path} has no name of BIDS, such as {LAYOUTS['bids'].example}. Leave --layout out.")
    return match
