"""What `--check` reads of the scans."""

import sys
from pathlib import Path

import pytest

from agi_core.scenario import parse_scenario
from client.check.data import check_data
from client.site.file import read_deployed_site
from client.site.images import images_of
from tests.support.requests_by_hand import deployed_site
from tests.support.small_data import write_ixi


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_byte_is_read_once_and_the_images_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir, scenario = write_ixi(tmp_path / "ixi", {"Guys": 4}), parse_scenario("T1,T2:PD")
    site = read_deployed_site(deployed_site(tmp_path, data_dir, rules="policy: {minimum_subjects: 1}\n"))
    Path(site.state_dir).mkdir()
    list(check_data(site, scenario))  # modules are read once too
    before = bytes_read()
    rows = check_data(site, scenario)
    while True:
        try:
            next(rows)
        except StopIteration as end:
            _, subjects, scans = end.value
            break
    size = sum(path.stat().st_size for path in data_dir.glob("*/*"))
    assert size <= bytes_read() - before < 1.1 * size
    monkeypatch.setattr("client.site.images.read_volume", None)  # a start after `--check` reads no scan again
    assert len(images_of(Path(site.state_dir), subjects, site=site.site)) == 4
    assert len(scans) == 12
