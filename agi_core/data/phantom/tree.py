"""Write the built-in data as NIfTI trees in the layouts of IXI and BraTS 2023, so that it is read like real scans."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

from numpy.typing import NDArray

from agi_core.data.nifti import write_scan
from agi_core.data.phantom.scanner import ISOTROPIC, SLICES, Grid, Layout
from agi_core.data.phantom.subject import ScannedSubject, scan_subject
from agi_core.errors import ConfigError, RunError
from agi_core.host import atomic
from agi_core.host.cores import cores

VERSION = 2  # of the generator; another version writes other voxels
MOST_AT_ONCE = 4  # subjects; each is in memory as a whole
MARKER_NAME = "phantom.json"
TRUTH_NAME = "truth.csv"
_DESCRIP = f"SYNTHETIC, not a patient: agi_core phantom {VERSION}"
_FIRST_IXI, _FIRST_BRATS = 700, 90001  # beyond the numbers of the real sets
_POSE_COLUMNS = ("rx_deg", "ry_deg", "rz_deg", "tx_mm", "ty_mm", "tz_mm")


def parse_sites(text: str) -> dict[str, int]:
    """Read `Guys:14,HH:10,IOP:6`: subjects per site, in the order given.

    Raises:
        ConfigError: the text has another form, a site twice, or a count below 1.
    """
    sites: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z0-9_]+)\s*:\s*([0-9]+)\s*", part)
        if match is None or int(match[2]) < 1:
            raise ConfigError(
                f"sites {text}: '{part.strip()}' is not NAME:COUNT with a name of letters, digits and underscores "
                "and a count of at least 1. Write for instance Guys:14,HH:10,IOP:6."
            )
        if match[1] in sites:
            raise ConfigError(f"sites {text}: {match[1]} is there twice. Give each site once, with all its subjects.")
        sites[match[1]] = int(match[2])
    return sites


def write_phantom(
    out_dir: Path,
    *,
    layout: Layout,
    sites: Mapping[str, int],
    seed: int,
    isotropic: bool = False,
    on_subject: Callable[[int, int], None] | None = None,
) -> None:
    """Write a synthetic data set to `out_dir`, completely or not at all.

    Args:
        out_dir: a folder that does not exist yet or is empty.
        layout: `ixi`: `IXI-T1/IXI700-Guys-1000-T1.nii.gz`, one folder per modality; `brats`:
            `BraTS-GLI-90001-000/BraTS-GLI-90001-000-t1n.nii.gz`, and the sites in `partitioning.csv`. Both have
            `truth.csv`, with the anatomies, and the poses in the layout of IXI.
        sites: subjects per site. `scanner.scanner_of` says which scanner a site has.
        seed: 0 or more; the same seed gives the same voxels.
        isotropic: 128x144x112 at 1.5 mm instead of 128x128x20 at 1.5x1.75x5 mm.
        on_subject: called with (subjects written, subjects in all).

    Raises:
        ConfigError: `layout` is unknown, it cannot name the sites, or `out_dir` holds something.
        RunError: `out_dir` cannot be written.
    """
    _check(out_dir, layout, sites)
    grid = ISOTROPIC if isotropic else SLICES
    subjects = [(site, index) for site, count in sites.items() for index in range(count)]
    rows: list[dict[str, Any]] = []
    try:
        with atomic.new_folder(out_dir) as temporary_dir:
            write = partial(_write_subject, temporary_dir, layout=layout, seed=seed, grid=grid)
            pool = ThreadPoolExecutor(min(cores(), MOST_AT_ONCE))  # numpy, scipy and zlib work outside of Python's lock
            try:
                writing = [
                    pool.submit(write, site=site, index=index, number=number)
                    for number, (site, index) in enumerate(subjects)
                ]
                for written in writing:
                    rows.append(written.result())
                    if on_subject:
                        on_subject(len(rows), len(subjects))
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure or Ctrl-C, those that have begun end
            _write_table(temporary_dir / TRUTH_NAME, rows)
            if layout == "brats":
                partitioning = [{"Partition_ID": row["site"], "Subject_ID": row["subject"]} for row in rows]
                _write_table(temporary_dir / "partitioning.csv", partitioning)
            marker = _identity(layout=layout, sites=sites, seed=seed, isotropic=isotropic)
            marker["anatomies"] = len({row["anatomy"] for row in rows})
            (temporary_dir / MARKER_NAME).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    except RunError:
        if not phantom_matches(out_dir, layout=layout, sites=sites, seed=seed, isotropic=isotropic):
            raise  # else another process was faster


def phantom_matches(
    out_dir: Path, *, layout: Layout, sites: Mapping[str, int], seed: int, isotropic: bool = False
) -> bool:
    """Whether `out_dir` holds exactly the data set that `write_phantom` would write there."""
    try:
        found = json.loads((out_dir / MARKER_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    identity = _identity(layout=layout, sites=sites, seed=seed, isotropic=isotropic)
    return isinstance(found, dict) and found.items() >= identity.items()


def _identity(*, layout: Layout, sites: Mapping[str, int], seed: int, isotropic: bool) -> dict[str, Any]:
    return {
        "synthetic": True,
        "generator": "agi_core.data.phantom",
        "version": VERSION,
        "layout": layout,
        "sites": dict(sites),
        "seed": seed,
        "isotropic": isotropic,
    }


def _check(out_dir: Path, layout: str, sites: Mapping[str, int]) -> None:
    if layout not in get_args(Layout):
        raise ConfigError(f"The built-in data has no layout '{layout}'. Choose one of {', '.join(get_args(Layout))}.")
    if not sites or min(sites.values()) < 1:
        raise ConfigError("The built-in data needs at least one site and subject, for instance --sites Guys:14.")
    unnamed = [site for site in sites if not re.fullmatch("[A-Za-z]+" if layout == "ixi" else "[A-Za-z0-9_]+", site)]
    if unnamed:
        raise ConfigError(f"Layout {layout} cannot name the site '{unnamed[0]}'. Give it another name, letters only.")
    atomic.check_new_folder(out_dir)


def _write_subject(
    data_dir: Path, *, layout: Layout, seed: int, grid: Grid, site: str, index: int, number: int
) -> dict[str, Any]:
    """Its row of the truth."""
    scanned = scan_subject(layout=layout, site=site, index=index, seed=seed, grid=grid)
    write = _write_ixi if layout == "ixi" else _write_brats
    return write(data_dir, scanned, grid, site=site, index=index, number=number)


def _write_ixi(
    data_dir: Path, scanned: ScannedSubject, grid: Grid, *, site: str, index: int, number: int
) -> dict[str, Any]:
    subject = f"IXI{_FIRST_IXI + number}-{site}-{1000 + index}"
    for modality, image in scanned.images.items():
        path = data_dir / f"IXI-{modality}" / f"{subject}-{modality}.nii.gz"
        write_scan(path, image, affine=grid.affine, descrip=_DESCRIP)
    row: dict[str, Any] = {"subject": subject, "site": site, "anatomy": scanned.anatomy}
    for name, modality in (("T1", "T1"), ("T2PD", "T2")):
        pose = scanned.poses[modality]
        values = (*pose.rotation_deg, *pose.shift_mm)
        row |= {f"{name}_{column}": round(value, 4) for column, value in zip(_POSE_COLUMNS, values, strict=True)}
    return row


def _write_brats(
    data_dir: Path, scanned: ScannedSubject, grid: Grid, *, site: str, index: int, number: int
) -> dict[str, Any]:
    subject = f"BraTS-GLI-{_FIRST_BRATS + number}-000"
    assert scanned.labels is not None  # noqa: S101  # scan_subject gives them in this layout
    volumes: dict[str, NDArray[Any]] = {**scanned.images, "seg": scanned.labels}
    for name, image in volumes.items():
        write_scan(data_dir / subject / f"{subject}-{name}.nii.gz", image, affine=grid.affine, descrip=_DESCRIP)
    return {"subject": subject, "site": site, "anatomy": scanned.anatomy}


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
