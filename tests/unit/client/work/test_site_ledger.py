"""A site keeps its ledgers: another path, or another name of a subject, starts no new budget."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agi_core.config.load import read_task
from agi_core.errors import PrivacyError
from agi_core.privacy.accounting import Steps
from agi_core.privacy.ledger import Budget, Ledger, open_ledger
from client.site.file import Site
from client.site.opened import OpenSite, open_site
from client.site.policy import PrivateValidation, SitePrivacy
from client.work import site_ledger
from client.work.private_training import spent_at
from client.work.site_ledger import NAME, open_site_ledger
from tests.support.requests_by_hand import deployed_site, small_task
from tests.support.small_data import write_ixi


def budget(folder: Path, name: str) -> SitePrivacy:
    ledger, head = folder / "ledgers" / f"{name}.jsonl", folder / "heads" / f"{name}.json"
    return SitePrivacy(ledger=str(ledger), ledger_head=str(head), subjects=10, epsilon=8.0, delta=1e-5)


def spend(site: Site, privacy: SitePrivacy, subjects: list[str]) -> None:
    with open_site_ledger(site, privacy) as ledger:
        ledger.reserve(subjects, Steps(1.0, 1.0, 4), run="r", round=1, request="d", budget=Budget(1e9, 1e-5))


def test_another_path_of_the_ledger_starts_no_new_budget(tmp_path: Path) -> None:
    site, first, other = Site(site="A", state_dir=str(tmp_path / "state")), budget(tmp_path, "a"), budget(tmp_path, "b")
    spend(site, first, ["IXI1"])
    with pytest.raises(
        PrivacyError, match=rf"is not the one that this site began for training, which was at {tmp_path}"
    ):
        spend(site, other, ["IXI1"])
    moved = dataclasses.replace(first, ledger=str(tmp_path / "moved.jsonl"))
    for suffix in (".jsonl", ".key"):
        shutil.move(Path(first.ledger).with_suffix(suffix), tmp_path / f"moved{suffix}")
    assert spent_at(site, moved, subjects=["IXI1"], delta=1e-5)["epsilon"] > 8
    (tmp_path / "state" / NAME).write_text("[]")
    with pytest.raises(PrivacyError, match="is damaged"):
        spend(site, moved, ["IXI1"])


def test_what_another_program_begins_while_this_one_waits_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, first, validation = Site(site="A", state_dir=str(tmp_path / "state")), budget(tmp_path, "a"), tmp_path / "v"
    files = {"ledger": str(validation / "v.jsonl"), "ledger_head": str(validation / "heads" / "v.json")}
    other = PrivateValidation(**files, epsilon=2.0, delta=1e-5, subjects=9, metrics={}, noise_multiplier=5.0)

    @contextlib.contextmanager
    def open_late(*where: Any, **which: Any) -> Iterator[Ledger]:
        monkeypatch.undo()
        with open_site_ledger(site, other):
            pass
        with open_ledger(*where, **which) as ledger:
            yield ledger

    monkeypatch.setattr(site_ledger, "open_ledger", open_late)
    spend(site, first, ["IXI1"])
    assert json.loads((tmp_path / "state" / NAME).read_text()).keys() == {"training", "validation"}


def test_another_name_of_a_subject_starts_no_new_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data_dir, task = write_ixi(tmp_path / "ixi", {"HH": 6}), read_task(small_task()[0])
    path, privacy = deployed_site(tmp_path, data_dir), budget(tmp_path, "a")
    site, before = open_site(path).file, open_site(path).scans(task).subjects
    spend(site, privacy, before.identities(before.train))
    spent = spent_at(site, privacy, subjects=before.identities(before.train), delta=1e-5)["epsilon"]
    assert spent > 8

    for scan in [*data_dir.glob("*/IXI1*")]:
        scan.rename(scan.with_name(scan.name.replace("IXI1", "IXI9")))
    after = open_site(path).scans(task).subjects
    assert {subject.id for subject in after.train} == {s.id.replace("IXI1", "IXI9") for s in before.train}
    assert "IXI900 (was IXI100)" in caplog.text
    assert spent_at(site, privacy, subjects=after.identities(after.train), delta=1e-5)["epsilon"] == spent

    shutil.rmtree(site.state_dir)  # the ledger still knows the images of everybody
    again = OpenSite(site).scans(task).subjects
    assert spent_at(site, privacy, subjects=again.identities(again.train[:1]), delta=1e-5)["epsilon"] == spent
    names = [subject.id for subject in again.train]
    assert spent_at(site, privacy, subjects=names, delta=1e-5)["epsilon"] == 0  # names alone are new
