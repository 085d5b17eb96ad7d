"""Which blends are scored, once each, and what is said where nobody can score one."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agi_core.config.load import load_config
from agi_core.run import run_folder
from agi_core.run.event_log import EventLog, events_of
from agi_core.run.events import BlendSolved, BlendTested
from client.app import app as client_app
from server import runs
from server.blending import Blending
from server.registry import Entry
from simulations.local_grid import LocalGrid

OFFERS = {"B": ["T1", "PD"], "C": ["T2", "PD"], "D": ["T1", "T2"]}


def solve(run_dir: Path, **weights: float) -> None:
    solved = {f"{source}:PD": weight for source, weight in weights.items()}
    EventLog.going_on(run_dir).append(BlendSolved(cell="T1,T2:PD", weights=solved, measured=True))


def test_a_blend_is_tested_once_and_where_nobody_can_that_is_said(tmp_path: Path) -> None:
    registered = {site: Entry(f"key {site}", "", subjects=9, modalities=names) for site, names in OFFERS.items()}
    config = load_config(None, overrides={"scenario": "T1,T2,PD:any"}, assignments=["federation.unseen_sites=[D]"])
    run_dir = tmp_path / "run"
    run_folder.create(run_dir, runs.resolved(config, registered))
    grid, key = LocalGrid(client_app, []), Ed25519PrivateKey.generate()
    for _ in range(2):  # at its second start it solves again
        solve(run_dir, T1=0.25, T2=0.75)
        Blending(grid, run_dir, strikes_path=tmp_path / "strikes.json", key=key).test()
    said = "no site holds T1, T2 and PD together: no score"
    once = BlendTested(cell="T1,T2:PD", weights={"T1:PD": 0.25, "T2:PD": 0.75}, said=said)
    assert events_of(run_dir, BlendTested) == [once]
    solve(run_dir, T1=0.5, T2=0.5)
    Blending(grid, run_dir, strikes_path=tmp_path / "strikes.json", key=key).test()
    assert [event.weights["T1:PD"] for event in events_of(run_dir, BlendTested)] == [0.25, 0.5]
