import dataclasses
import fcntl
from pathlib import Path

import numpy as np
import pytest

from agi_core.errors import RunError
from agi_core.run import checkpoint
from agi_core.run.event_log import EventLog
from agi_core.run.events import ModelValidated, RoundFinished, RoundStarted, RunPaused
from agi_core.run.scores import Best, SiteScore
from server import run_state
from server.run_state import RunState
from tests.support.events import kinds_of

FINISHED = RoundFinished(round=4, sites=["Guys"], train_loss={"Guys": 0.25}, seconds={"Guys": 3.0})


def example() -> RunState:
    rng = np.random.default_rng(0)
    return RunState(
        run_id="first-0123456789ab",
        weights={"encoder.w": rng.normal(size=(3, 2)).astype(np.float32), "b": np.zeros(1, np.float32)},
        round=4,
        velocity={"encoder.w": rng.normal(size=(3, 2)), "b": rng.normal(size=1)},
        trained_layer={"head.w": rng.normal(size=3)},
        best=Best(3, 21.5, {"Guys": 21.5}),
        tested=True,
        sitting_out={"HH": "The site's privacy budget is exhausted."},
    )


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state, events = example(), EventLog(tmp_path, elapsed_s=60.0)
    events.append(FINISHED)
    run_state.save(tmp_path, state, events)
    loaded = run_state.load(tmp_path)
    assert loaded is not None
    for name in (arrays := ("weights", "velocity", "trained_layer")):
        ours, theirs = getattr(state, name), getattr(loaded[0], name)
        assert set(ours) == set(theirs)
        for key, array in ours.items():
            assert theirs[key].dtype == array.dtype
            np.testing.assert_array_equal(theirs[key], array)
    rest = [{k: v for k, v in vars(s).items() if k not in arrays} for s in (state, loaded[0])]
    assert rest[0] == rest[1]
    assert 60 <= loaded[1].elapsed_s < 70


def test_events_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    events = EventLog(tmp_path)
    events.append(FINISHED)
    run_state.save(tmp_path, example(), events)
    events.append(RoundStarted(round=5))
    assert run_state.load(tmp_path) is not None
    assert kinds_of(tmp_path) == ["round_finished"]


def test_a_checkpoint_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    """What happened in each round is in the events."""
    state, events, sizes = example(), EventLog(tmp_path), []
    for state.round in (10, 11, 30):
        for _ in range(state.round):
            events.append(FINISHED)
        run_state.save(tmp_path, state, events)
        sizes.append((tmp_path / "checkpoints" / f"state-{state.round:05d}.json").stat().st_size)
    assert max(sizes) - min(sizes) < 10


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert run_state.load(tmp_path) is None


def test_a_format_of_another_release_is_refused(tmp_path: Path) -> None:
    run_state.save(tmp_path, example(), EventLog(tmp_path))
    _, state = checkpoint.load_round(tmp_path, 4)
    checkpoint.commit_state(tmp_path, round=4, state={**state, "format": 99})
    with pytest.raises(RunError, match="format 99, this program reads 2"):
        run_state.load(tmp_path)


def best_of(*rounds: dict[str, float], of: int) -> Best | None:
    """The best of these rounds, the first of which has the number 0."""
    state = dataclasses.replace(example(), best=None)
    for round, told in enumerate(rounds):
        sites = {site: SiteScore({"psnr_db": psnr_db}, 1) for site, psnr_db in told.items()}
        state.consider_best(ModelValidated(round=round, mean={}, sites=sites), of=of)
    return state.best


def test_the_best_round_is_the_first_of_the_highest() -> None:
    rounds = [{}, {"A": 20.0}, {"A": 22.0}, {"A": 21.0}, {"A": 22.0}, {}]
    assert best_of(*rounds, of=1) == Best(2, 22.0, {"A": 22.0})


def test_one_site_alone_makes_no_best_round() -> None:
    """Seen without malice: a site drops out, and round 3 is scored by the site with the easier scans."""
    rounds = [{"A": 20.0, "B": 21.7}, {"A": 20.1, "B": 21.8}, {"B": 21.83}]
    assert best_of(*rounds, of=2) == Best(1, pytest.approx(20.95), rounds[1])
    assert best_of({"A": 100.0}, {"A": 20.0, "B": 20.0}, of=2) == Best(1, 20.0, {"A": 20.0, "B": 20.0})
    assert best_of({"A": 20.0, "B": 20.0}, of=4) is None


def test_one_liar_of_three_does_not_hold_the_best_round() -> None:
    rounds = [{"A": 100.0, "B": 10.0, "C": 11.0}, {"A": 0.0, "B": 20.0, "C": 21.0}]
    assert best_of(*rounds, of=3) == Best(1, 20.0, rounds[1])


def test_a_best_round_of_too_few_of_todays_sites_is_forgotten() -> None:
    """Two sites joined after round 1. With a best round of A alone, nothing could be compared ever after."""
    state = dataclasses.replace(example(), best=None)

    def told(round: int, **psnrs: float) -> None:
        sites = {site: SiteScore({"psnr_db": psnr_db}, 1) for site, psnr_db in psnrs.items()}
        state.consider_best(ModelValidated(round=round, mean={}, sites=sites), of=1 if round == 1 else 3)

    told(1, A=24.0)
    told(2, A=20.0, B=21.0, C=22.0)
    assert state.best == Best(2, 21.0, {"A": 20.0, "B": 21.0, "C": 22.0})
    told(3, A=20.5, B=21.5, C=22.5)
    assert state.best.round == 3


def test_rounds_are_compared_at_the_same_sites() -> None:
    """C has harder scans than the others: that it joins, or leaves, is no change of the model."""
    with_c, without = {"A": 24.0, "B": 24.0, "C": 10.0, "D": 9.0}, {"A": 23.0, "B": 23.0, "E": 40.0}
    assert best_of(with_c, without, of=3) == Best(0, 17.0, with_c)
    assert best_of(without, {**with_c, "A": 22.0, "B": 22.9}, of=3) == Best(0, 23.0, without)


def test_the_best_model_stays_on_disk(tmp_path: Path) -> None:
    events, state = EventLog(tmp_path), example()
    for round in range(6):
        state.round = round
        state.weights["b"] = np.full(1, round, np.float32)
        state.best = Best(min(round, 2), 20.0)
        run_state.save(tmp_path, state, events)
    assert checkpoint.load_weights(tmp_path, best=True)["b"] == [2]
    assert checkpoint.load_weights(tmp_path)["b"] == [5]


def test_events_that_led_to_a_pause_survive_a_resume(tmp_path: Path) -> None:
    events = EventLog(tmp_path)
    run_state.save(tmp_path, example(), events)
    events.append(RunPaused(round=4, reason="too few"))
    run_state.keep_events(tmp_path, events)
    loaded = run_state.load(tmp_path)
    assert loaded is not None
    assert loaded[0].round == 4
    assert kinds_of(tmp_path) == ["paused"]


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "PATIENCE_S", 0.0)
    assert not run_state.is_held(tmp_path)
    with run_state.holding(tmp_path):
        assert run_state.is_held(tmp_path)
        with pytest.raises(RunError, match="another process"), run_state.holding(tmp_path):
            pass
    with (tmp_path / run_state.LOCK).open("w") as looking:  # as another `is_held` has it for a moment
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not run_state.is_held(tmp_path)
    with run_state.holding(tmp_path):
        pass


def test_the_sites_know_a_run_by_its_name_and_tell_it_from_another_of_that_name(tmp_path: Path) -> None:
    first, again = (run_state.new_run_id(tmp_path / "first") for _ in range(2))
    assert first.startswith("first-")
    assert first != again
    assert len(run_state.new_run_id(tmp_path / ("long" * 50))) <= 64  # what a site keeps of it
