"""A site that never ran `--check` says on its terminal who is who. Real files."""

import gzip
from pathlib import Path

from agi_core.config.schema import Task
from client.process.first_look import look_at_scans
from client.site.file import read_deployed_site
from client.site.opened import OpenSite
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import write_ixi


def test_one_image_of_two_subjects_and_other_names_are_told_at_the_start(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "ixi", {"HH": 3})
    site = read_deployed_site(deployed_site(tmp_path, data_dir))
    assert look_at_scans(site, "T1:PD") == ""
    OpenSite(site).scans(Task(scenario="T1:PD")).subjects  # noqa: B018  the site has worked with these names
    for scan in [*data_dir.glob("*/IXI100-*")]:
        scan.rename(scan.with_name(scan.name.replace("IXI100", "IXI900")))
    assert look_at_scans(site, "T1:PD").startswith("IXI900 (was IXI100): known by scans")
    scan, twice = (data_dir / "IXI-T1" / f"IXI{number}-T1.nii.gz" for number in ("101-HH-1101", "102-HH-1102"))
    twice.write_bytes(gzip.compress(gzip.decompress(scan.read_bytes()), mtime=1))
    warning = look_at_scans(site, "T1:PD")
    assert "hold the same image" in warning
    assert warning.endswith("data.exclude=[IXI102]. Until this is mended, the site refuses requests for T1:PD.")
