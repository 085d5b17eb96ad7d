"""The models that a command is given: of a run, or of a zip."""

import argparse
from importlib.metadata import version

from agi_core.errors import ConfigError
from agi_core.export.archive import read_archive
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.run import run_folder
from agi_core.run_models import RunModels


def open_models(arguments: argparse.Namespace) -> RunModels:
    """Of --run or --model. A run's `deterministic` holds for its predictions, too."""
    deterministic = arguments.model is None and run_folder.open_existing(arguments.run).deterministic
    device = open_device(arguments.device, threads=arguments.threads, deterministic=deterministic)
    if arguments.model is None:
        return RunModels.of(arguments.run, best=arguments.weights == "best", device=device)
    if arguments.weights == "best":
        raise ConfigError("a zip holds one model; export chooses it, so leave --weights out")
    description, weights, extras = read_archive(arguments.model, release=version("agi-fed"))
    network = Network(description.task, device=device)
    network.load(weights)
    scenario = network.scenario
    networks = {scenario: lambda: network}
    register = description.register
    return RunModels(arguments.model, scenario.modalities, description.task, register, networks, extras=extras)
