"""The start of a private simulation, or of one that asks for it: weights pre-trained on public synthetic data, which
are made on first use."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from agi_core.config.load import task_json
from agi_core.config.schema import RunConfig
from agi_core.data.phantom.built_in import PUBLIC, with_built_in_data
from agi_core.data.phantom.tree import VERSION
from agi_core.data.phantom.truth import read_anatomies
from agi_core.data.scans import Scans
from agi_core.errors import ConfigError, DataError
from agi_core.host.device import open_device
from agi_core.pretraining import PRETRAINING, pretrain
from agi_core.report.markup import plural
from agi_core.run import initial_weights
from simulations.display import Display


def with_pretrained_weights(config: RunConfig, work_dir: Path, console: Console) -> RunConfig:
    """The configuration of a run that starts from public data with a file of pre-trained weights; any other as it is.

    The file is kept in `work_dir` under a hash of all that it depends on. The run's seed is its seed. Subjects with the
    anatomy that the run holds back are left out.

    Raises:
        ConfigError: there is no built-in data for the run's scenario.
    """
    if config.initial_weights != initial_weights.PUBLIC and not (config.privacy.on and config.initial_weights is None):
        return config
    data = replace(PRETRAINING.data, layout=config.data.layout, cache_dir=config.data.cache_dir)
    model = replace(PRETRAINING, scenario=config.scenario, reference=config.reference, model=config.model)
    pretraining = replace(model, grid=config.grid, data=data, seed=config.seed, compile=config.compile)
    unseen = config.data.unseen_anatomy
    inputs = [task_json(pretraining.task), data.layout, data.phantom_sites, PUBLIC.seed, VERSION]
    inputs += [unseen] if unseen else []
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]
    path = (work_dir / initial_weights.public_name(key)).resolve()
    if not path.is_file():
        steps, size = pretraining.training.local_steps, pretraining.training.batch_size
        console.print(
            f"pre-training without privacy on public synthetic data: {plural(steps, 'step')} of {plural(size, 'crop')}"
            f" (once, about ten minutes on a CPU with the usual settings; kept in {path.name};"
            " initial_weights=random does without)"
        )
        try:
            with Display(console, config).showing():
                device = open_device(config.device, threads=config.threads)
                public = with_built_in_data(pretraining, PUBLIC, work_dir=work_dir)
                pretrain(_without(unseen, public), path, device=device)
        except (ConfigError, DataError) as error:
            raise ConfigError(
                f"no pre-training on built-in data ({error}); give initial_weights=FILE of python -m agi_core"
                " pretrain, or initial_weights=random"
            ) from None
    return replace(config, initial_weights=str(path))


def _without(anatomy: str | None, config: RunConfig) -> RunConfig:
    """The configuration without the subjects that have this anatomy."""
    having = [subject for subject, its in read_anatomies(Scans.of(config.data)).items() if its == anatomy]
    return replace(config, data=replace(config.data, exclude=(*config.data.exclude, *having)))
