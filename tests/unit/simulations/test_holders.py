"""Who holds what in a folder of scans, and the sites of each cell."""

import dataclasses
from itertools import combinations
from pathlib import Path

import pytest

from agi_core.cells import folder_of, parse_vocabulary
from agi_core.config.load import load_config
from agi_core.config.schema import RunConfig
from agi_core.errors import AgiError, ConfigError
from agi_core.scenario import parse_scenario
from client.site.opened import open_site
from server.study_plan import cell_config
from simulations.holders import find_holders, plan_of, sites_of, write_splits
from simulations.sites import WholeRun, find_sites, write_sites
from tests.support.small_data import SMALL, write_ixi

PAIRS = {"A": ["T1", "T2"], "B": ["T1", "PD"], "C": ["T2", "PD"]}


def config_for(data_dir: Path, *settings: str, offers: dict[str, list[str]] | None = None) -> RunConfig:
    overrides = {
        "data.dir": str(data_dir),
        "data.cache_dir": str(data_dir.parent / "cache"),
        "clients": 3,
        "scenario": "T1,T2,PD:any",
        "federation.offers": offers or {},
    }
    return load_config(None, overrides=overrides, assignments=[*SMALL, "training.local_steps=40", *settings])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites of six; one subject has T1 and T2 alone, and one has T1 alone."""
    folder = write_ixi(tmp_path_factory.mktemp("holders") / "ixi", {"A": 6, "B": 6, "C": 6})
    for name in ("IXI-PD/IXI101-A-1101-PD", "IXI-PD/IXI102-A-1102-PD", "IXI-T2/IXI102-A-1102-T2"):
        (folder / f"{name}.nii.gz").unlink()
    return folder


def test_subjects_hold_what_they_hold(data_dir: Path) -> None:
    config, everybody = find_holders(config_for(data_dir))
    assert config.federation.subjects == {"A": 5, "B": 6, "C": 6}
    assert config.federation.offers == {site: ["T1", "T2", "PD"] for site in "ABC"}
    (skipped,) = everybody.discovery.skipped
    assert (skipped.place, skipped.reason) == ("IXI102 1102", "no T2, PD")
    plan = plan_of(config, everybody)
    assert plan.trained == dict.fromkeys(parse_vocabulary("T1,T2,PD:any").cells, ("A", "B", "C"))
    cell = parse_scenario("T1,T2:PD")
    _, federation = sites_of(cell_config(config, cell, plan), cell, plan, everybody)
    assert {site: len(subjects) for site, subjects in federation.training.items()} == {"A": 4, "B": 6, "C": 6}


def test_nobody_who_trains_in_one_cell_tests_in_another(data_dir: Path, tmp_path: Path) -> None:
    """As the sites themselves divide their subjects, whichever cell asks first."""
    config, everybody = find_holders(config_for(data_dir, offers={**PAIRS, "A": ["T1", "T2", "PD"]}))
    plan = plan_of(config, everybody)
    write_splits(tmp_path, everybody)
    parts: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    for cell in reversed(plan.trained):
        its, federation = sites_of(cell_config(config, cell, plan), cell, plan, everybody)
        paths = write_sites(folder_of(tmp_path, cell), its, federation, study=WholeRun(tmp_path, config))
        for site in its.federation.sites:
            subjects = open_site(paths[site]).scans(its.task).subjects
            for name, ids in parts.items():
                ids.update(subject.id for subject in getattr(subjects, name))
        for site in its.federation.unseen_sites:
            parts["test"].update(subject.id for subject in open_site(paths[site]).scans(its.task).subjects.all)
    assert all(not one & other for one, other in combinations(parts.values(), 2))
    assert sum(map(len, parts.values())) == 17


def test_a_hidden_target_is_kept_for_scoring_on_test_subjects(data_dir: Path) -> None:
    config, everybody = find_holders(config_for(data_dir, offers=PAIRS))
    plan, cell = plan_of(config, everybody), parse_scenario("T2:PD")
    assert plan.trained[cell] == ("C",)
    its, federation = sites_of(cell_config(config, cell, plan), cell, plan, everybody)
    assert (its.federation.sites, its.federation.unseen_sites) == (("C",), ("A",))
    assert {subject.id for subject in federation.unseen["A"]} <= {*everybody.splits["A"].test}
    assert parse_scenario("T1,T2:PD") in plan.blends


def test_where_everybody_holds_all_a_cell_is_the_run_of_its_scenario(ixi_dir: Path) -> None:
    settings = config_for(ixi_dir)
    config, everybody = find_holders(settings)
    plan, cell = plan_of(config, everybody), parse_scenario("T1,T2:PD")
    its, cell_sites = sites_of(cell_config(config, cell, plan), cell, plan, everybody)
    single, sites = find_sites(dataclasses.replace(settings, scenario="T1,T2:PD"))
    shared = dataclasses.replace(single.training, local_steps=4)  # 40 over nine cells, at least 4
    assert its == dataclasses.replace(single, training=shared)
    assert cell_sites == sites


def test_a_vocabulary_of_one_modality_is_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="two to 6 modalities, not 1"):
        load_config(None, overrides={"scenario": "T1:any", "data.dir": str(data_dir)})


@pytest.mark.parametrize(
    ("settings", "offers", "cause"),
    [
        (("scenario=T1,T2,FLAIR:any",), None, "no subject in .* has FLAIR"),
        ((), {"A": ["T1", "T2"], "B": ["T1", "T2"], "C": ["T1", "T2"]}, "no site offers PD"),
        ((), {"Guys": ["T1", "T2"]}, "no training site Guys"),
        ((), {"A": ["PD"]}, "A offers PD; a site needs two"),
    ],
)
def test_what_cannot_be_is_refused(
    data_dir: Path, settings: tuple[str, ...], offers: dict[str, list[str]] | None, cause: str
) -> None:
    with pytest.raises(AgiError, match=cause):
        find_holders(config_for(data_dir, *settings, offers=offers))
