"""Names and companions of BIDS derivatives."""

import json
import os
from pathlib import Path

import pytest

from agi_core.__main__ import main
from agi_core.bids import check_folder, derivative_path, describe, sidecar_path
from agi_core.errors import DataError
from tests.support.finished_run import finished_run
from tests.support.small_data import write_head


@pytest.mark.parametrize(
    ("like", "target", "expected"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "PDw", "sub-01/anat/sub-01_desc-synth_PDw.nii.gz"),
        ("sub-01/ses-2/anat/sub-01_ses-2_T1w.nii", "T2w", "sub-01/ses-2/anat/sub-01_ses-2_desc-synth_T2w.nii.gz"),
        (
            "sub-a/anat/sub-a_acq-fast_T1w.nii.gz",
            "T1w[ce-gadolinium]",
            "sub-a/anat/sub-a_ce-gadolinium_desc-synth_T1w.nii.gz",
        ),
        (
            "sub-a/anat/sub-a_T1w.nii.gz",
            "MESE[echo-1_rec-norm_zzz-1_ce-gd_part-real]",
            "sub-a/anat/sub-a_ce-gd_rec-norm_echo-1_part-real_zzz-1_desc-synth_MESE.nii.gz",
        ),
        (
            "sub-a/anat/sub-a_space-MNI_desc-preproc_T1w.nii.gz",
            "FLAIR[space-MNI_desc-preproc]",
            "sub-a/anat/sub-a_space-MNI_desc-synth_FLAIR.nii.gz",
        ),
    ],
)
def test_names(like: str, target: str, expected: str) -> None:
    assert derivative_path(Path("d"), like=Path("/data/raw") / like, target=target) == Path("d") / expected


def test_each_source_is_found_in_the_data_set_that_its_uri_names(tmp_path: Path) -> None:
    study, folder = tmp_path / "study", tmp_path / "study" / "derivatives" / "agifed"

    def sources_of(out_path: Path, *sources: Path) -> list[str]:
        describe(
            out_path, folder=folder, sources={str(n): path for n, path in enumerate(sources)}, target="PD", release=""
        )
        uris: list[str] = json.loads(sidecar_path(out_path).read_bytes())["Sources"]
        links = json.loads((folder / "dataset_description.json").read_bytes())["DatasetLinks"]
        for uri, path in zip(uris, sources, strict=True):
            _, name, inside = uri.split(":")
            assert Path(os.path.normpath(folder / links[name] / inside)) == path
        return uris

    raw, other = (root / "sub-01/anat/sub-01_T1w.nii.gz" for root in (study, tmp_path / "other"))
    fmriprep = study / "derivatives/fMRI-prep/sub-01/anat/sub-01_desc-preproc_T2w.nii.gz"
    first = sources_of(folder / "sub-01/anat/sub-01_desc-synth_PD.nii.gz", raw, fmriprep)
    assert first == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz", f"bids:fMRIprep:sub-01/anat/{fmriprep.name}"]
    second = sources_of(folder / "sub-02/anat/sub-02_desc-synth_PD.nii.gz", other, raw)
    assert second == ["bids:raw2:sub-01/anat/sub-01_T1w.nii.gz", "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert sources_of(folder / "sub-01/anat/sub-01_desc-synth_PD.nii.gz", raw, fmriprep) == first


def test_a_name_that_is_not_of_bids_is_refused() -> None:
    with pytest.raises(DataError, match="has no name of BIDS"):
        derivative_path(Path("d"), like=Path("scan.nii"), target="PDw")


def test_a_link_has_its_own_name(tmp_path: Path) -> None:
    """git-annex keeps the content elsewhere, under a hash."""
    write_head(tmp_path / "objects" / "a1b2.nii.gz", seed=1, contrast=1)
    link = tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "objects" / "a1b2.nii.gz")
    made = derivative_path(Path("d"), like=link, target="PDw")
    assert made == Path("d/sub-01/anat/sub-01_desc-synth_PDw.nii.gz")


def test_another_data_set_keeps_its_description(tmp_path: Path) -> None:
    check_folder(tmp_path)
    path = tmp_path / "dataset_description.json"
    for content in ('{"Name": "My cohort", "DatasetType": "raw"}', "not json"):
        path.write_text(content)
        with pytest.raises(DataError, match="is another data set"):
            check_folder(tmp_path)
    path.write_text('{"GeneratedBy": [{"Name": "AGI-Fed"}]}')
    check_folder(tmp_path)


def test_the_command_line_writes_a_data_set_of_derivatives(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    sources = []
    for m, modality in enumerate(("T1", "T2")):
        path = tmp_path / "raw" / "sub-01" / "ses-1" / "anat" / f"sub-01_ses-1_{modality}w.nii.gz"
        write_head(path, seed=1, contrast=1 + m)
        sources += ["--source", f"{modality}={path}"]
    out_dir = tmp_path / "derivatives" / "agifed"
    command = ["synthesize", "--run", str(tmp_path / "run"), *sources, "--layout", "bids", "--out", str(out_dir)]
    assert main(command) == 0
    made = out_dir / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_desc-synth_PD.nii.gz"
    assert made.is_file()
    description = json.loads((out_dir / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "AGI-Fed"
    sidecar = json.loads((made.parent / "sub-01_ses-1_desc-synth_PD.json").read_text())
    assert sidecar["Sources"] == [f"bids:raw:sub-01/ses-1/anat/sub-01_ses-1_{m}w.nii.gz" for m in ("T1", "T2")]
