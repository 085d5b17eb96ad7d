"""Any tree of files ends in a right result, where what was used and what was listed is all that is there, or in one
sentence."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from agi_core.data.fingerprint import fingerprints
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Discovery, Scans, discover
from agi_core.errors import AgiError
from agi_core.scenario import parse_scenario

AFFINE = np.diag([12.0, 12.0, 20.0, 1.0])
INDEX = np.indices((16, 16, 8)) - np.array([7.5, 7.5, 3.5])[:, None, None, None]
HEAD = ((INDEX / np.array([6, 6, 3.2])[:, None, None, None]) ** 2).sum(axis=0) < 1
SCENARIOS = {"ixi": parse_scenario("T1,T2:PD"), "bids": parse_scenario("T1w,T2w:PDw")}
USABLE = ("scan", "hot voxel", "two names")


@dataclass(frozen=True)
class File:
    """A file of a tree: whose scan of which modality its name says it is ("" where it says nothing), what it holds."""

    place: str
    subject: str
    modality: str
    content: str


ODD = ("capitals", "entity", "other", "deep", "trash", "unnamed", "bz2", "document")
CONTENTS = ("hot voxel", "two names", "constant", "short", "text", "empty", "no form")


def named(layout: str, number: int, visit: int, modality: str, *, odd: str = "", content: str = "scan") -> File:
    """A file of a visit of a subject, named as the layout has it, or oddly."""
    if layout == "ixi":
        subject = f"IXI{100 + number}"
        folder, stem = f"IXI-{modality}", f"{subject}-{'Guys' if number else 'HH'}-{1000 + number + visit}-{modality}"
    else:
        subject = f"sub-{number}"
        folder, stem = f"{subject}/ses-{visit}/anat", f"{subject}_ses-{visit}_{modality}"
        if odd == "entity":
            stem, modality = f"{subject}_ses-{visit}_ce-gd_{modality}", f"{modality}[ce-gd]"
    name = {
        "capitals": f"{stem}.NII",
        "other": f"{stem}.mgz",
        "unnamed": f"scan {number}.nii",
        "bz2": f"{stem}.nii.bz2",
    }
    place = {"deep": f"a/b/c/d/{stem}.nii", "trash": f".Trash-1000/{stem}.nii", "document": "README.txt"}
    telling = odd in ("", "capitals", "entity")
    return File(
        place.get(odd, f"{folder}/{name.get(odd, f'{stem}.nii')}"),
        subject if telling else "",
        modality if telling else "",
        content,
    )


@st.composite
def trees(draw: st.DrawFn) -> tuple[str, list[File]]:
    """A layout, and files in it: whole visits, some of them odd in one file, and single files."""
    layout = draw(st.sampled_from(sorted(SCENARIOS)))
    modalities = SCENARIOS[layout].modalities
    visit = st.tuples(st.integers(0, 3), st.integers(0, 1))
    tree = [named(layout, *which, modality) for which in draw(st.sets(visit, max_size=4)) for modality in modalities]
    odd = st.one_of(st.just(("", "scan")), st.tuples(st.sampled_from(ODD), st.just("scan")))
    odd |= st.tuples(st.just(""), st.sampled_from(CONTENTS))
    others = st.tuples(visit, st.sampled_from([*modalities, "MRA" if layout == "ixi" else "FLAIR"]), odd)
    for which, modality, (name, content) in draw(st.lists(others, max_size=3)):
        tree.append(named(layout, *which, modality, odd=name, content=content))
    return layout, tree


def write(root: Path, file: File, *, seed: int) -> None:
    path = root / file.place
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0 if file.content == "two names" else seed)
    data = np.where(HEAD, rng.uniform(300, 1000, HEAD.shape), rng.uniform(1, 40, HEAD.shape)).astype(np.int16)
    if file.content == "constant":
        data[:] = 7
    if file.content == "hot voxel":
        data[1, 1, 1] = 32767
    image = nib.Nifti1Image(data, AFFINE)
    if file.content == "no form":
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
    nib.save(image, root / "scan.nii")
    content = (root / "scan.nii").read_bytes()
    (root / "scan.nii").unlink()
    path.write_bytes({"short": content[:2000], "text": b"hello", "empty": b""}.get(file.content, content))


def accounted(file: File, found: Discovery, root: Path) -> bool:
    """Whether a file is used, or listed: itself, with its folder, with its visit or subject, or as another modality."""
    used = {
        path.resolve() for subject in found.subjects for session in subject.sessions for path in session.paths.values()
    }
    if (root / file.place).resolve() in used or file.place == "README.txt":
        return True
    for skipped in found.skipped:
        below = file.place == skipped.place or file.place.startswith(f"{skipped.place}/")
        if below or (file.subject and skipped.place.split()[0].rstrip(":") == file.subject):
            return True
    return found.other_modalities.get(file.modality, 0) > 0


def check_any_tree(folder: Path, layout: str, tree: list[File]) -> None:
    root, scenario = folder / "data", SCENARIOS[layout]
    root.mkdir()
    tree = list({file.place.lower(): file for file in tree}.values())
    for seed, file in enumerate(tree, start=1):
        write(root, file, seed=seed)
    refusal = ""
    try:
        found = discover(Scans(root, layout), scenario.modalities)
        fingerprints(found.subjects)
        preparation = Preparation(
            scenario=scenario, spacing_mm=None, register_to=None, whole=True, cache_dir=folder / "cache"
        )
        entries = preparation.open(found.subjects)
    except AgiError as error:
        refusal = str(error)
    event("refused" if refusal else "used")
    if refusal:
        assert "\n" not in refusal
    else:
        assert [file for file in tree if not accounted(file, found, root)] == []
        check_used(found, {(root / file.place).resolve(): file for file in tree})
        assert all(entry.shape == (8, 3, 16, 16) for entry in entries)
        assert len(entries) == sum(len(subject.sessions) for subject in found.subjects)
    assert {path.name for path in folder.iterdir()} <= {"data", "cache"}
    assert not list(folder.rglob(".tmp-*"))


def check_used(found: Discovery, by_path: dict[Path, File]) -> None:
    """Every scan is used as what its name says, and can be used."""
    for subject in found.subjects:
        for session in subject.sessions:
            for modality, path in session.paths.items():
                file = by_path[path.resolve()]
                assert (file.subject, file.modality) == (subject.id, modality)
                assert file.content in USABLE


def check_in_a_folder_of_its_own(tree: tuple[str, list[File]]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        check_any_tree(folder, *tree)
    finally:
        shutil.rmtree(folder)


@given(tree=trees())
@settings(max_examples=60, deadline=None)
def test_any_tree_is_accounted_for_or_refused(tree: tuple[str, list[File]]) -> None:
    check_in_a_folder_of_its_own(tree)


@pytest.mark.slow
@given(tree=trees())
@settings(max_examples=2000, deadline=None)
def test_two_thousand_trees(tree: tuple[str, list[File]]) -> None:
    check_in_a_folder_of_its_own(tree)
