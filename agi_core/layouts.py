"""How the folders of IXI, BraTS and BIDS name their scans. A new layout is one entry of `LAYOUTS`, and its name.

ixi     `IXI012-HH-1211-T1.nii.gz` (or `..._T1.nii.gz`), flat or in folders; `IXI012` is the person, `HH` the hospital.
brats   `BraTS-GLI-00000-000-t1n.nii.gz` (2023 on), `BraTS2021_00000_t1ce.nii.gz`, `BraTS20_Training_001_flair.nii.gz`,
        `FeTS2022_00000_t1ce.nii.gz`, in any folders. Modalities have the names of 2023: t1n, t1c, t2w, t2f.
bids    `sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz`; the modality is the suffix. What other entities the name has is
        part of the modality, `T1w[ce-gadolinium]`, but for those that do not change what a scan shows.

Standard library only, so that a configuration can be read and checked where nothing else is installed.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

LayoutName = Literal["ixi", "brats", "bids"]


@dataclass(frozen=True)
class Layout:
    """How one layout names things.

    Attributes:
        example: a scan's name, for messages.
        scan: matches the path of a scan below the data folder; groups subject, modality, and where the name tells them
            session, site and entities (`_acq-fast_run-1`).
        visit: matches the name of a subject, or of one of its visits, in a table; group subject.
        default_scenario: sources and target where the user names none.
        modalities: {modality in the file's name: the name used here}.
        neutral: entities, with or without their value, that do not change what a scan shows: how it was acquired, which
            of several it is.
    """

    example: str
    scan: re.Pattern[str]
    visit: re.Pattern[str]
    default_scenario: str
    modalities: Mapping[str, str] = field(default_factory=dict)
    neutral: frozenset[str] = frozenset()


def telling(entities: Iterable[str], *, neutral: Collection[str]) -> list[str]:
    """Those entities that change what a scan shows: not `Layout.neutral`, with or without a value."""
    return [entity for entity in entities if entity not in neutral and entity.partition("-")[0] not in neutral]


_FOLDERS, _NIFTI = r"(?:[^/]+/)*", r"\.(?i:nii(?:\.gz)?)"
_IXI = r"(?P<subject>IXI[0-9]+)"
_BRATS = r"(?P<subject>(?:BraTS-[A-Za-z]+|(?:BraTS|FeTS)[0-9]+(?:_[A-Za-z]+)?)[-_][0-9]+)(?:-(?P<session>[0-9]{3}))?"
_BIDS = r"(?P<subject>sub-[A-Za-z0-9]+)"

LAYOUTS: dict[str, Layout] = {
    "ixi": Layout(
        "IXI012-HH-1211-T1.nii.gz",
        # DTI comes as one file per direction (DTI-00, DTI-01, ...): one modality
        re.compile(
            rf"{_FOLDERS}{_IXI}-(?P<site>[A-Za-z]{{1,64}})-(?P<session>[0-9]+)"
            rf"[-_](?P<modality>[A-Za-z0-9]+)(-[0-9]+)?{_NIFTI}"
        ),
        re.compile(rf"{_IXI}(?:-[A-Za-z]+-[0-9]+)?"),
        default_scenario="T1,T2:PD",
    ),
    "brats": Layout(
        "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz or BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
        re.compile(rf"{_FOLDERS}{_BRATS}[-_](?P<modality>[a-z][a-z0-9]*){_NIFTI}"),
        re.compile(_BRATS),
        default_scenario="t1n,t1c,t2w:t2f",
        modalities={"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"},  # 2020 to 2022 -> 2023
    ),
    "bids": Layout(
        "sub-01/anat/sub-01_T1w.nii.gz",
        re.compile(
            rf"{_BIDS}/(?:(?P<session>ses-[A-Za-z0-9]+)/)?anat/(?P=subject)(?(session)_(?P=session))"
            rf"(?P<entities>(?:_[a-z]+-[A-Za-z0-9]+)*)_(?P<modality>[A-Za-z0-9]+){_NIFTI}"
        ),
        re.compile(rf"{_BIDS}(?:_ses-[A-Za-z0-9]+)?"),
        default_scenario="T1w,T2w:FLAIR",
        neutral=frozenset({"acq", "run", "part-mag"}),
    ),
}
