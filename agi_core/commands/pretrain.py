"""`python -m agi_core pretrain`: first weights for private runs, from public data."""

import argparse
from pathlib import Path

from agi_core.commands.bars import showing_steps
from agi_core.config.load import load_config
from agi_core.data.phantom.built_in import PUBLIC, with_built_in_data
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.pretraining import PRETRAINING, pretrain


def run(arguments: argparse.Namespace) -> None:
    """Train, and write the weights."""
    config = load_config(None, overrides={}, assignments=arguments.settings, defaults=PRETRAINING)
    if config.privacy.on:
        raise ConfigError("pre-training has no privacy and is for public data only; leave privacy.epsilon out")
    atomic.check_file(arguments.out, suffix=".safetensors")
    device = open_device(
        config.device, threads=config.threads, deterministic=config.deterministic, compiled=config.compile
    )
    with showing_steps():
        config = with_built_in_data(config, PUBLIC, work_dir=Path(".cache"))
        pretrain(config, arguments.out, device=device)
    print(f"initial weights in {arguments.out}; start a run from them with initial_weights={arguments.out}")
