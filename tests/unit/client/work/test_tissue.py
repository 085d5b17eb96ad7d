"""The test of a site with segmentations: means over all test subjects leave, or none."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from agi_core.config.load import load_config
from agi_core.config.schema import PrivacyConfig, RunConfig
from agi_core.metric_table import FAULTY, METRIC_NAMES, SEGMENTED_METRIC_NAMES, TISSUE_METRIC_NAMES
from agi_core.network import Network
from agi_core.protocol import EVALUATE, TEST, Reply, Request, pack
from agi_core.segmentation.segmenter import Segmenter
from client.site.file import Site, SiteData
from client.site.opened import OpenSite
from client.site.policy import Policy
from client.work.evaluation import evaluate
from client.work.job import Job
from tests.support.brats_tree import read, save, write_subject
from tests.support.small_data import SMALL
from tests.support.toy_segmenter import train_toy

TOLD = (*METRIC_NAMES, FAULTY)
TESTED = ("BraTS-GLI-00001", "BraTS-GLI-00002")


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(None, overrides={"scenario": "t1n,t2w:t2f", "reference": "t2w"}, assignments=SMALL)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    for number in range(1, 5):
        write_subject(tmp_path / "scans", number, modalities=("t1n", "t2w", "t2f"))
    return Site(
        site="A",
        data=SiteData(dir=str(tmp_path / "scans"), layout="brats", test_subjects=TESTED),
        state_dir=str(tmp_path / "state"),
        cache_dir=str(tmp_path / "cache"),
        policy=Policy(minimum_subjects=1),
    )


def answered(site: Site, config: RunConfig) -> Reply:
    network = Network(config)
    network.set_readout(np.linspace(-0.3, 0.4, len(network.readout)))
    request = Request(
        action=EVALUATE,
        run_id="run",
        round=2,
        nonce="n",
        task="",
        subjects=TEST,
        deadline_s=60,
        weights=pack(network.weights),
    )
    return evaluate(
        Job(request=request, task=config.task, site=site, scans=OpenSite(site).scans(config.task), network=network)
    )


def with_test_subject(site: Site, subject: str) -> Site:
    data = dataclasses.replace(site.data, test_subjects=(subject,))
    return dataclasses.replace(site, data=data, state_dir=f"{site.state_dir}-{subject}")


def seg_of(site: Site, subject: str) -> Path:
    return Path(site.data.dir) / f"{subject}-000" / f"{subject}-000-seg.nii.gz"


def test_means_over_all_test_subjects(site: Site, config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    reply = answered(site, config)
    assert {*reply.metrics} == {*TOLD, *TISSUE_METRIC_NAMES}
    assert (reply.num_examples, reply.suppressed) == (2, "")
    alone = {subject: answered(with_test_subject(site, subject), config) for subject in TESTED}
    assert [one.num_examples for one in alone.values()] == [1, 1]
    for name in TISSUE_METRIC_NAMES:
        of_each = [one.metrics[name] for one in alone.values()]
        assert of_each[0] != of_each[1]
        assert reply.metrics[name] == pytest.approx(np.mean(of_each), rel=1e-6)

    bad = seg_of(site, TESTED[1])
    save(bad, np.zeros((5, 5, 5), np.uint8))
    with caplog.at_level(logging.WARNING):
        reply = answered(site, config)
    assert "a segmentation is not used" in caplog.text
    assert ({*reply.metrics}, {*reply.suppressed.split(",")}) == ({*TOLD}, {*TISSUE_METRIC_NAMES})

    bad.unlink()  # whether one test subject has a tumour is not told by the names of what is held back
    (first, second) = (answered(with_test_subject(site, subject), config) for subject in TESTED)
    assert {*first.metrics, *filter(None, first.suppressed.split(","))} == {*TOLD, *TISSUE_METRIC_NAMES}
    assert {*second.metrics, *filter(None, second.suppressed.split(","))} == {*TOLD, *TISSUE_METRIC_NAMES}

    private = dataclasses.replace(config, privacy=PrivacyConfig(epsilon=8.0))
    reply = answered(site, private)
    assert ({*reply.metrics}, reply.suppressed) == ({*METRIC_NAMES}, "")
    for number in range(1, 5):
        seg_of(site, f"BraTS-GLI-{number:05}").unlink(missing_ok=True)
    reply = answered(site, config)
    assert ({*reply.metrics}, reply.suppressed) == ({*TOLD}, "")


def test_what_the_network_that_is_asked_for_finds(
    site: Site, config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Means over all test subjects, of the file that the site names, if it is the network that the task means."""
    for number in range(1, 5):  # with a t1c, which the run has no use for
        write_subject(tmp_path / "scans", number)
        write_subject(tmp_path / "others", number + 10)
    segmenter = train_toy(tmp_path / "others")
    segmenter.write(tmp_path / "net.safetensors")
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, segmenter=segmenter.hash))
    with_it = dataclasses.replace(site, segmenter=str(tmp_path / "net.safetensors"))
    reply = answered(with_it, config)
    assert {*reply.metrics} == {*TOLD, *TISSUE_METRIC_NAMES, *SEGMENTED_METRIC_NAMES}
    alone = [answered(with_test_subject(with_it, subject), config) for subject in TESTED]
    for name in SEGMENTED_METRIC_NAMES:
        assert reply.metrics[name] == pytest.approx(np.mean([one.metrics[name] for one in alone]), abs=1e-9)
    assert 0 < reply.metrics["dice_WT_synthetic"] < reply.metrics["dice_WT_ceiling"]

    tissue_alone = {*TOLD, *TISSUE_METRIC_NAMES}
    not_asked = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, segmenter=None))
    assert {*answered(with_it, not_asked).metrics} == tissue_alone
    with caplog.at_level(logging.WARNING):
        assert {*answered(site, config).metrics} == tissue_alone
    assert (
        f"no Dice: the task asks for the segmentation network {segmenter.hash}, and the site file names" in caplog.text
    )
    train_toy(tmp_path / "scans").write(tmp_path / "other.safetensors")
    other = dataclasses.replace(site, segmenter=str(tmp_path / "other.safetensors"))
    with caplog.at_level(logging.WARNING):
        reply = answered(other, config)
    assert ({*reply.metrics}, reply.suppressed) == (tissue_alone, "")
    assert f"{tmp_path / 'other.safetensors'} is " in caplog.text
    hidden = dataclasses.replace(with_it, data=dataclasses.replace(site.data, modalities=("t1n", "t2w", "t2f")))
    reply = answered(hidden, config)
    assert ({*reply.metrics}, reply.suppressed) == (tissue_alone, "")  # whoever hides its t1c tells nothing of it
    assert "needs ['t1c'], which data.modalities does not offer" in caplog.text

    of_the_test = dataclasses.replace(config.evaluation, segmenter=train_toy(tmp_path / "scans").hash)
    reply = answered(other, dataclasses.replace(config, evaluation=of_the_test))
    assert ({*reply.metrics}, {*reply.suppressed.split(",")}) == (tissue_alone, {*SEGMENTED_METRIC_NAMES})
    assert "not segmented: the subject trained the segmentation network" in caplog.text

    with pytest.MonkeyPatch.context() as patch:  # a network that cannot be used costs no other figure
        patch.setattr(Segmenter, "segment", lambda *given: 1 / 0)
        reply = answered(with_it, config)
    assert ({*reply.metrics}, {*reply.suppressed.split(",")}) == (tissue_alone, {*SEGMENTED_METRIC_NAMES})

    moved = np.diag([2.0, 2.0, 2.0, 1.0]) + np.eye(4, k=3) * 5
    path = tmp_path / "scans" / f"{TESTED[1]}-000" / f"{TESTED[1]}-000-t1c.nii.gz"
    save(path, read(path), moved)
    reply = answered(with_it, config)
    assert ({*reply.metrics}, {*reply.suppressed.split(",")}) == (tissue_alone, {*SEGMENTED_METRIC_NAMES})
    assert "the network needs one grid" in caplog.text
