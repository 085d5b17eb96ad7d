"""`python -m agi_core calibrate`: how far to trust a run's volumes."""

import argparse
import sys
from contextlib import suppress

from agi_core import known_range
from agi_core.calibration import calibrate_on
from agi_core.commands.bars import showing_steps
from agi_core.conformal import WANTED, guaranteed
from agi_core.data.scans import Scans
from agi_core.errors import ConfigError, RunError
from agi_core.host.device import open_device
from agi_core.names import shown
from agi_core.report.markup import plural
from agi_core.run import error_model, run_folder
from agi_core.run_models import RunModels


def run(arguments: argparse.Namespace) -> None:
    """Learn the errors and the known range, and keep them in the run's folder."""
    config = run_folder.open_scenario(arguments.run)
    device = open_device(arguments.device, threads=arguments.threads, deterministic=config.deterministic)
    models = RunModels.of(arguments.run, best=arguments.weights == "best", device=device)
    (cell,) = models.networks
    network = models.network(cell)
    errors_path = arguments.run / error_model.NAME
    if arguments.head is not None:
        own_path, _ = models.load_own(arguments.head, [cell])
        print(f"of a site's own weights, in {shown(str(own_path))}")
        errors_path = error_model.own_path(arguments.run, network=network)
    if arguments.data is not None:
        scans = Scans.like(config.data, arguments.data, layout=arguments.layout)
    elif config.data.dir is not None:
        scans = Scans.of(config.data)
    else:
        raise ConfigError("the run names no folder of scans; give --data with complete subjects that did not train")
    if config.privacy.on:
        print(
            "warning: the run is private, and what is learnt here comes from patients without noise: it stays in"
            f" {arguments.run} at this hospital, and must not be handed on",
            file=sys.stderr,
        )
    with showing_steps():
        made = calibrate_on(
            network,
            scans,
            task=config.task,
            run_dir=arguments.run,
            cache_dir=arguments.cache_dir,
        )
    errors, known, known_path = made.errors, made.known, arguments.run / known_range.NAME
    print(
        f"{WANTED:.0%} interval: {errors.factor:.2f} expected errors, of {errors.subjects} subjects; of"
        f" new ones it covers {guaranteed(errors.subjects):.0%} at least, on average"
    )
    for site, shares in sorted(made.covered.items()):
        print(
            f"{site}: {sum(shares) / len(shares):.0%} covered by the interval of the others, {min(shares):.0%} to"
            f" {max(shares):.0%} of {plural(len(shares), 'subject')}"
        )
    error_model.write_error_model(errors_path, errors, network=network)
    for note in made.notes:
        print(f"warning: {note}", file=sys.stderr)
    before = None
    with suppress(RunError):  # a damaged one is made again
        before = known_range.read_known_range(known_path, network=network)
    of_training = known_range.OF_TRAINING
    if known is not None and (known.of == of_training or before is None or before.of != of_training):
        known.write(known_path)
        print(f"known range: of {known}")
    elif before is not None:
        print(f"known range: as before, of {before}")
    else:
        print(
            f"warning: no known range: it takes {known_range.FEWEST} subjects, and there are {made.seen}; give --data"
            " with more, or synthesize --strict has nothing to compare with",
            file=sys.stderr,
        )
