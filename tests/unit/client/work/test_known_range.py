"""What a site tells of its training subjects' sources, on small real files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.calibration import measured
from agi_core.config.load import read_task
from agi_core.errors import PolicyError
from agi_core.known_range import names_of
from agi_core.network import CPU, Network
from agi_core.pooled_range import are_possible
from agi_core.protocol import RANGE, RANGE_SUBJECTS, unpack
from client.border import audit, egress
from client.site.opened import OpenSite, open_site
from client.site.policy import Policy, SitePrivacy
from client.work import known_range
from client.work.trainer import answer
from tests.support.requests_by_hand import deployed_site, evaluation_request, small_task

TASK, WEIGHTS = small_task()
PRIVACY = SitePrivacy(ledger="a", ledger_head="b", subjects=12, epsilon=8, delta=1e-5)
ASKED = evaluation_request(RANGE, task=TASK, weights=WEIGHTS)


@pytest.fixture
def site(tmp_path: Path, ixi_dir: Path) -> OpenSite:
    """12 subjects, of whom nine train."""
    site = open_site(deployed_site(tmp_path, ixi_dir))
    return OpenSite(dataclasses.replace(site.file, policy=Policy(minimum_subjects=4)))


def test_mean_and_mean_square_of_each_measure_and_no_name(site: OpenSite) -> None:
    task = read_task(TASK)
    network, training = Network(task), site.scans(task).subjects.train
    reply = answer(site, ASKED, task, device=CPU)
    assert reply.weights is not None
    assert (reply.num_examples, reply.metrics) == (9, {RANGE_SUBJECTS: 9})
    (told,), names = unpack(reply.weights).values(), names_of(network)
    table = [[its[name] for name in names] for its in measured(training, network, task=task, register=False)]
    np.testing.assert_allclose(told, [np.mean(table, axis=0), np.mean(np.square(table), axis=0)], rtol=1e-12)
    assert are_possible(told, names)
    assert reply.weights.manifest == '[["moments","float64",[2,38]]]'


def test_it_leaves_with_its_metric_or_not_at_all_and_the_audit_says_so(site: OpenSite) -> None:
    reply = answer(site, ASKED, read_task(TASK), device=CPU)
    left = egress.let_out(reply, request=ASKED, site=site.file, subjects=12)
    assert left.weights == reply.weights
    (row,) = audit.read(Path(site.file.state_dir))
    assert (row.action, row.left[RANGE_SUBJECTS]) == ("evaluate known range", 9)
    assert row.weights_bytes == 2 * 8 * len(names_of(Network(read_task(TASK))))
    for policy in (Policy(metrics=["psnr_db"]), Policy(answers_per_model=1)):
        strict = dataclasses.replace(site.file, policy=policy)
        other = dataclasses.replace(ASKED, round=3)
        assert egress.let_out(reply, request=other, site=strict, subjects=12).weights is None


def test_a_few_are_measured_and_always_the_same(site: OpenSite, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task(TASK)
    monkeypatch.setattr(known_range, "MOST", 4)
    assert answer(site, ASKED, task, device=CPU).num_examples == 4
    monkeypatch.setattr(known_range, "MOST", 5)  # the first five differ from the first four by one
    assert answer(site, ASKED, task, device=CPU).num_examples == 4


def test_few_subjects_and_private_training_tell_nothing(site: OpenSite) -> None:
    strict = dataclasses.replace(site.file, policy=Policy(minimum_subjects=10))
    for changed, cause in (
        (strict, "minimum_subjects"),
        (dataclasses.replace(site.file, privacy=PRIVACY), "no noise"),
    ):
        with pytest.raises(PolicyError, match=cause):
            answer(OpenSite(changed), ASKED, read_task(TASK), device=CPU)
