from pathlib import Path

import pytest

from agi_core.errors import ConfigError
from client.site import Site, SiteData, read_site, to_yaml
from client.trainer import open_device

SITE = Site("Guys", SiteData("/scans", "ixi", subjects=["IXI002", "IXI010"]), "/cache", device="cpu", threads=2)


def test_a_site_file_comes_back(tmp_path: Path) -> None:
    (tmp_path / "Guys.yaml").write_text(to_yaml(SITE))
    assert read_site(tmp_path / "Guys.yaml") == SITE


def test_what_is_not_written_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: HH\ncache_dir: c\ndata: {dir: d, layout: brats}\n")
    assert read_site(tmp_path / "site.yaml") == Site("HH", SiteData("d", "brats"), "c", device="auto", threads=1)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("site: HH\ncache_dir: c\ndata: {dir: d}\n", "data.layout"),
        ("cache_dir: c\ndata: {dir: d, layout: ixi}\n", "site"),
        ("site: HH\ncache_dir: c\ndata: {dir: d, layout: dicom}\n", "dicom"),
        ("site: HH\ncache_dri: c\ndata: {dir: d, layout: ixi}\n", "cache_dri"),
        ("site: [HH\n", "site.yaml"),
        ("- site\n", "site.yaml"),
    ],
)
def test_a_broken_site_file(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ConfigError, match=cause) as caught:
        read_site(tmp_path / "site.yaml")
    assert str(tmp_path / "site.yaml") in str(caught.value)


def test_a_missing_site_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_site(tmp_path / "site.yaml")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda 0"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ConfigError, match=r"set device=.*auto"):
        open_device(Site(device=device))
    assert open_device(Site(device="cpu")).type == "cpu"
