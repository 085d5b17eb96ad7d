"""`python -m agi_core adapt`: a last layer for a hospital that took no part."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from agi_core.adaptation import Adaptation, adapt
from agi_core.commands.bars import showing_steps
from agi_core.data.scans import Scans
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.report.markup import plural
from agi_core.run import run_folder
from agi_core.run.checkpoint import load_with_trained_layer, trained_weights
from agi_core.run.own_weights import write_own_weights
from agi_core.run.summary import read_summary

FAR_DB = 7.0
"""By how much the common model may be worse at a strange scanner before the files are doubted: with built-in data 5 dB
are usual, and 10 where a T2 is called a PD."""
MOST = 0.95


def run(arguments: argparse.Namespace) -> None:
    """Solve the layer, say what it gains, and write it."""
    config = run_folder.open_scenario(arguments.run)
    atomic.check_file(arguments.out, suffix=".safetensors")
    device = open_device(arguments.device, threads=arguments.threads, deterministic=config.deterministic)
    network = Network(config, device=device)
    network.load(trained_weights(arguments.run, best=arguments.weights == "best"))
    trained = None
    if arguments.weights != "best":
        trained = Network(config, device=device)
        trained.load(load_with_trained_layer(arguments.run))
    scans = Scans.like(config.data, arguments.data, layout=arguments.layout)
    with showing_steps():
        adaptation = adapt(
            network, scans, task=config.task, run_dir=arguments.run, cache_dir=arguments.cache_dir, trained=trained
        )
    print(adaptation.found)
    for note in adaptation.notes:
        print(f"warning: {note}", file=sys.stderr)
    write_own_weights(arguments.out, adaptation.own, network=network)
    for line in _said(adaptation):
        print(line)
    usual_db = _usual_db(arguments.run)
    if usual_db is not None and adaptation.common_db < usual_db - FAR_DB:
        print(
            f"warning: the common model is far worse on {adaptation.scored} than on the run's test subjects"
            f" ({usual_db:.2f} dB): look whether the files are what their names say",
            file=sys.stderr,
        )
    weights = " --weights best" if arguments.weights == "best" else ""
    use = f"python -m agi_core synthesize --run {arguments.run}{weights} --head {arguments.out} --help"
    print(f"the last layer of {plural(len(adaptation.subjects), 'subject')} is in {arguments.out}; use it: {use}")


def _said(adaptation: Adaptation) -> Iterator[str]:
    """What the layer gains."""
    gains, scored = adaptation.gains_db, adaptation.scored
    how = f"left out of the other {len(gains) - 1}" if gains else "the only subject, so this is no test"
    own = "a last layer of its hospital" if gains else "its own last layer"
    yield f"{scored}, {how}: {adaptation.common_db:.2f} dB with the common model, {adaptation.own_db:.2f} dB with {own}"
    if gains:
        worst = min(gains, key=lambda subject_id: gains[subject_id])
        yield (
            f"each left out in turn gains {fmean(gains.values()):.2f} dB on average; the least gains {worst},"
            f" {gains[worst]:.2f} dB"
        )
    if adaptation.part < MOST:
        yield (
            f"the layer goes {adaptation.part:.0%} of the way from the run's to that of these subjects: the rest"
            " may be what scans of one scanner differ by, and more subjects would tell"
        )


def _usual_db(run_dir: Path) -> float | None:
    """PSNR of the run's final test at its training sites; None where it has none."""
    summary = read_summary(run_dir)
    return summary.scores.final.get("psnr_db") if summary else None
