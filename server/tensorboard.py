"""TensorBoard: a view of a run's events, one curve per site and figure. Needs the extra `tensorboard`."""

import shutil
from pathlib import Path

from agi_core.errors import ConfigError
from agi_core.run.event_log import read_events
from agi_core.run.events import ModelValidated, RoundFinished


def write_scalars(run_dir: Path) -> Path:
    """Write `tensorboard/` of a run anew from its events, and return its path.

    Raises:
        ConfigError: TensorBoard is not installed. RunError: the folder holds no events.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, because TensorBoard is an extra
    except ImportError:
        raise ConfigError("TensorBoard is not installed; add it with: pip install '.[tensorboard]'") from None
    events = read_events(run_dir)
    folder = run_dir / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for _, event in events:
            if isinstance(event, RoundFinished | ModelValidated):
                for name, value in _figures(event).items():
                    writer.add_scalar(name, value, event.round)
    return folder


def _figures(event: RoundFinished | ModelValidated) -> dict[str, float]:
    """{"figure/site": value} of one event."""
    if isinstance(event, RoundFinished):
        told = {"train_loss": event.train_loss, "seconds": event.seconds}
        return {f"{name}/{site}": value for name, values in told.items() for site, value in values.items()}
    means = {site: score.metrics for site, score in event.sites.items()} | {"all sites": event.mean}
    return {f"validation_{name}/{site}": value for site, its in means.items() for name, value in its.items()}
