"""Secure sums over real processes: hospitals that list each other's keys train together."""

import json
from pathlib import Path

import pytest

from agi_core.errors import PolicyError
from agi_core.host.keys import fingerprint
from agi_core.run.events import SiteSatOut
from client.border import audit
from client.site.keys import public_key
from tests.support.federation_of_processes import Federation, running
from tests.support.small_data import write_ixi

pytestmark = pytest.mark.slow
NAMES = ["hospitalA", "hospitalB", "hospitalC"]
SUMMED = ("rounds=2", "model.prior=none", "federation.secure_sum=true", "reference=T2", "training.align_target=false")


def test_hospitals_sum_with_those_that_they_list(tmp_path: Path) -> None:
    data_dir = write_ixi(tmp_path / "scans", {"Guys": 3})
    with running(Federation(tmp_path)) as federation:
        hospitals = {name: federation.join(name, data_dir) for name in NAMES}
        federation.until_ready()
        unlisted = federation.submit("unlisted", *SUMMED)
        unlisted.until_state("paused")
        assert [(event.site, event.reason) for event in unlisted.events(SiteSatOut)] == [
            (name, PolicyError.public) for name in NAMES
        ]

        keys = {name: fingerprint(public_key(Path(hospital.site.key_file))) for name, hospital in hospitals.items()}
        for name, hospital in hospitals.items():
            others = json.dumps([key for other, key in keys.items() if other != name])
            text = hospital.site_path.read_text()
            hospital.site_path.write_text(text.replace("policy: ", f"policy:\n  secure_sum_with: {others}", 1))
        listed = federation.submit("listed", *SUMMED)
        listed.until_state("finished")
        assert listed.took_part() == [NAMES, NAMES]
        left = {name: audit.read(Path(hospital.site.state_dir)) for name, hospital in hospitals.items()}
    for rows in left.values():
        trained = [row for row in rows if row.action == "train" and row.decision == audit.Decision.ANSWERED]
        assert [(row.round, row.left["num_examples"]) for row in trained] == [(1, 0), (2, 0)]
    vectors = {row.weights_sha256 for rows in left.values() for row in rows if row.action.startswith("train")} - {""}
    assert len(vectors) == 12
