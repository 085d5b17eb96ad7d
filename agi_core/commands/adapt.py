"""`python -m agi_core adapt`: a last layer for a hospital that took no part."""

import argparse

from agi_core.adaptation import adapt
from agi_core.commands.bars import showing_steps
from agi_core.data.scans import Scans
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run.checkpoint import trained_weights
from agi_core.run.own_weights import write_own_weights


def run(arguments: argparse.Namespace) -> None:
    """Solve the layer, say what it gains, and write it."""
    config = run_folder.open_scenario(arguments.run)
    atomic.check_file(arguments.out, suffix=".safetensors")
    network = Network(config, device=open_device(arguments.device, threads=arguments.threads))
    network.load(trained_weights(arguments.run, best=arguments.weights == "best"))
    scans = Scans.like(config.data, arguments.data, layout=arguments.layout)
    with showing_steps():
        adaptation = adapt(network, scans, task=config.task, cache_dir=arguments.cache_dir)
    print(adaptation.found)
    write_own_weights(arguments.out, adaptation.own, network=network)
    count = len(adaptation.subjects)
    how = f"left out of the other {count - 1}" if count > 1 else "the only subject, so this is no test"
    print(
        f"{adaptation.scored}, {how}: {adaptation.common_db:.2f} dB with the common model, {adaptation.own_db:.2f} dB"
        " with a last layer of its hospital"
    )
    use = f"python -m agi_core synthesize --run {arguments.run} --head {arguments.out} --help"
    print(f"the last layer of all {count} subjects is in {arguments.out}; use it: {use}")
