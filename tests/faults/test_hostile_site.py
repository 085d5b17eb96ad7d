"""One registered site of five does its worst for twenty rounds, over real processes: the run ends, the others' updates
are used in each round, no round takes longer than the deadline and half a minute, and the site is named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agi_core.run.events import RoundFinished, RoundStarted, SiteFailed, SiteMissing, UpdateRefused
from server import strikes
from tests.support.federation_of_processes import Federation, running
from tests.support.hostile_site import (
    Attack,
    HostileSite,
    a_request_to_another,
    announced_and_never_sent,
    hundreds_of_megabytes,
    in_anothers_name,
    record_and_no_message,
    silence,
)
from tests.support.real_processes import slowness
from tests.support.small_data import write_ixi

pytestmark = pytest.mark.slow
HONEST = ("hospitalA", "hospitalB", "hospitalC", "hospitalD")
HOSTILE = "hospitalX"
ROUNDS = 20
LIMIT_S = 30.0
REFUSED = (hundreds_of_megabytes, a_request_to_another, in_anothers_name)
WITHOUT_A_STRIKE: tuple[Attack, ...] = (*REFUSED, announced_and_never_sent, silence)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    place = tmp_path_factory.mktemp("hostile")
    data_dir = write_ixi(place / "scans", {"Guys": 3})
    with running(Federation(place)) as federation:
        for name in HONEST:
            federation.join(name, data_dir)
        federation.until_ready()
        federation.submit("well", "rounds=1", "model.prior=none").until_state("finished")  # caches are made
        yield federation


def test_one_site_does_its_worst(federation: Federation) -> None:
    site = federation.site(HOSTILE, federation.folder / "no-scans")
    attacks = [record_and_no_message] * (strikes.QUARANTINED_AT - 1)
    attacks += WITHOUT_A_STRIKE  # in rounds 3, 4, 5, 7 and 10: a site that is late again and again is asked more rarely
    hostile = HostileSite(
        f"localhost:{federation.port}",
        ca_path=federation.ca_path,
        key_path=Path(site.key_file),
        attacks=[*attacks, record_and_no_message],
    )
    hostile.start()
    deadline_s = round(10 * min(slowness(), 2.0))
    limits = (f"federation.quorum={len(HONEST)}", f"federation.deadline_s={deadline_s}")
    try:
        run = federation.submit("worst", f"rounds={ROUNDS}", "model.prior=none", *limits)
        run.until_state("finished", deadline_s=ROUNDS * (deadline_s + LIMIT_S))
    finally:
        hostile.stop()
    assert run.took_part() == [[*HONEST]] * ROUNDS
    begun = [t_s for t_s, event in run.log() if isinstance(event, RoundStarted)]
    ended = [t_s for t_s, event in run.log() if isinstance(event, RoundFinished)]
    took_s = [end - begin for begin, end in zip(begun, ended, strict=True)]
    print(f"deadline {deadline_s} s, rounds {min(took_s):.1f} to {max(took_s):.1f} s")
    assert max(took_s) < deadline_s + LIMIT_S
    named = [*run.events(SiteMissing), *run.events(SiteFailed), *run.events(UpdateRefused)]
    assert {event.site for event in named} == {HOSTILE}
    assert len(strikes.read(federation.dir / strikes.FILE)[HOSTILE]) == strikes.QUARANTINED_AT
    assert HOSTILE in run.report()
    assert {(attack.__name__, 403) for attack in REFUSED} == set(hostile.refused)
