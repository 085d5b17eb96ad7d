import dataclasses
from pathlib import Path

import pytest

from agi_core.errors import ConfigError
from client.site.file import CoordinatorAddress, DeployedSite, Site, SiteData, read_deployed_site, read_site, to_yaml
from client.site.policy import Policy

SITE = Site(
    site="Guys",
    data=SiteData(dir="/scans", layout="ixi", subjects=("IXI002", "IXI010")),
    cache_dir="/cache",
    device="cpu",
    threads=2,
)


def test_a_site_file_comes_back(tmp_path: Path) -> None:
    (tmp_path / "Guys.yaml").write_text(to_yaml(SITE))
    assert read_site(tmp_path / "Guys.yaml") == dataclasses.replace(SITE, state_dir=f"{tmp_path}/Guys")


def test_what_is_not_written_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: HH\ncache_dir: c\ndata: {dir: d, layout: brats}\n")
    assert read_site(tmp_path / "site.yaml") == Site(
        site="HH",
        data=SiteData(dir=f"{tmp_path}/d", layout="brats"),
        cache_dir=f"{tmp_path}/c",
        device="auto",
        threads=1,
        state_dir=f"{tmp_path}/site",
    )


def test_a_segmentation_network_lies_beside_the_site_file(tmp_path: Path) -> None:
    text = "site: HH\ncache_dir: c\ndata: {dir: d, layout: brats}\nsegmenter: net.safetensors\n"
    (tmp_path / "site.yaml").write_text(text)
    assert read_site(tmp_path / "site.yaml").segmenter == f"{tmp_path}/net.safetensors"


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


DEPLOYED = """\
site: HH
data: {dir: scans, layout: ixi, sites: map.csv}
cache_dir: /cache
state_dir: state
coordinator: {address: "agi.example.org:443", ca_file: ca.crt, public_key: ssh-ed25519 AAAA}
key_file: ../HH.key
"""


def test_a_deployed_site_has_paths_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "HH.yaml").write_text(DEPLOYED)
    site = read_site(tmp_path / "HH.yaml")
    assert site == read_deployed_site(tmp_path / "HH.yaml")
    assert site.data.scans.one_site
    assert site == DeployedSite(
        site="HH",
        data=SiteData(dir=f"{tmp_path}/scans", layout="ixi", sites=f"{tmp_path}/map.csv"),
        cache_dir="/cache",
        state_dir=f"{tmp_path}/state",
        coordinator=CoordinatorAddress("agi.example.org:443", f"{tmp_path}/ca.crt", "ssh-ed25519 AAAA"),
        key_file=f"{tmp_path.parent}/HH.key",
        runtime_port=9094,
        policy=Policy(minimum_subjects=10, max_deadline_s=3600),
    )


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("agi.example.org:443", "agi.example.org", "HOST:PORT"),
        ("agi.example.org:443", ":443", "HOST:PORT"),
        ("state_dir: state", "policy: {max_deadline_s: 60}", "state_dir"),
        ("state_dir: state", "state_dir: state\npolicy: {max_deadline_s: 0}", "max_deadline_s"),
        ("state_dir: state", "state_dir: state\nruntime_port: 70000", "runtime_port"),
        ("state_dir: state", "state_dir: state\ncache_gb: 0", "cache_gb=0.0 must be a positive number"),
        (
            "state_dir: state",
            "state_dir: state\ncache_gb: inf",
            "cache_gb=inf must be a positive number; null is no quota",
        ),
        ("state_dir: state", "state_dir: state\ncache_gb: nan", "cache_gb=nan must be a positive number"),
        ("state_dir: state", "state_dir: state\nthreads: 0", "threads=0 must lie between 1 and 1024"),
        ("agi.example.org:443", "agi.example.org:\u00b2", "HOST:PORT"),
        ("agi.example.org:443", "https://agi.example.org:443", "HOST:PORT"),
        ("agi.example.org:443", "agi.example.org:443 ", "HOST:PORT"),
        ("agi.example.org:443", "agi.example.org:65536", "HOST:PORT"),
        (", ca_file: ca.crt", "", "ca_file"),
        (", public_key: ssh-ed25519 AAAA", "", "public_key"),
        ("coordinator:", "# coordinator:", "address"),
        ("site: HH", "site: ../HH", "site: '../HH' must be 1 to 64 letters"),
        ("site: HH", "site: ${oc.env:HOME}", "must be 1 to 64 letters"),
    ],
)
def test_a_broken_deployment(tmp_path: Path, before: str, after: str, cause: str) -> None:
    (tmp_path / "HH.yaml").write_text(DEPLOYED.replace(before, after))
    with pytest.raises(ConfigError, match=cause):
        read_deployed_site(tmp_path / "HH.yaml")


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("privacy:", "privacy"),
        ("privacy: # all lines below are comments", "privacy"),
        ("privacy: null", "privacy"),
        ("privacy: {validation: }", "privacy.validation"),
        ("policy:", "policy"),
        ("policy: {metrics: }", "policy.metrics"),
        ("policy: {scenarios: ~}", "policy.scenarios"),
        ("policy: {secure_sum_with: }", "policy.secure_sum_with"),
        ("policy: {settings: }", "policy.settings"),
        ("policy: {settings: {rounds: }}", "policy.settings.rounds"),
    ],
)
def test_an_empty_rule_of_a_deployed_site_is_no_missing_one(tmp_path: Path, section: str, name: str) -> None:
    (tmp_path / "HH.yaml").write_text(f"{DEPLOYED}{section}\n")
    with pytest.raises(ConfigError, match=f"HH.yaml: {name} is empty; fill it in, or take the line out"):
        read_site(tmp_path / "HH.yaml")


@pytest.mark.parametrize("name", ["exclude", "subjects", "test_subjects", "modalities"])
def test_a_list_in_a_list_is_no_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "HH.yaml").write_text(DEPLOYED.replace("layout: ixi", f"layout: ixi, {name}: [[IXI1]]"))
    with pytest.raises(ConfigError, match=rf"HH.yaml: data.{name}: \['IXI1'\] is no name; write a list such as"):
        read_site(tmp_path / "HH.yaml")


@pytest.mark.parametrize(("offered", "told"), [("[T1]", "T1"), ("[]", "none"), ("[T1, T1]", "T1, T1")])
def test_a_site_offers_two_modalities(tmp_path: Path, offered: str, told: str) -> None:
    (tmp_path / "HH.yaml").write_text(DEPLOYED.replace("layout: ixi", f"layout: ixi, modalities: {offered}"))
    with pytest.raises(ConfigError, match=f"HH.yaml: data.modalities offers {told}; a site needs two to take part"):
        read_site(tmp_path / "HH.yaml")


def test_null_is_any_number(tmp_path: Path) -> None:
    unlimited = "cache_gb: null\npolicy: {answers_per_model: null, answers_per_day: null}\n"
    (tmp_path / "HH.yaml").write_text(DEPLOYED + unlimited)
    site = read_site(tmp_path / "HH.yaml")
    assert (site.cache_gb, site.policy.answers_per_model, site.policy.answers_per_day) == (None, None, None)


@pytest.mark.parametrize("name", ["001", "0012", "no", "1e3"])
def test_a_site_keeps_the_name_that_looks_like_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "HH.yaml").write_text(DEPLOYED.replace("site: HH", f"site: {name}"))
    assert read_site(tmp_path / "HH.yaml").site == name


def test_limits_are_numbers_words_and_lists(tmp_path: Path) -> None:
    limits = "{rounds: 200, training.learning_rate: 1e-3, training.adversarial: [false], model.conv: [cagr],"
    (tmp_path / "HH.yaml").write_text(DEPLOYED + f"policy: {{settings: {limits} grid.crop: [[96, 96]]}}}}\n")
    assert read_site(tmp_path / "HH.yaml").policy.settings == {
        "rounds": 200,
        "training.learning_rate": 0.001,
        "training.adversarial": [False],
        "model.conv": ["cagr"],
        "grid.crop": [[96, 96]],
    }
