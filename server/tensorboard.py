"""TensorBoard: a view of a run's events, one curve per site and figure. Needs the extra `tensorboard`."""

import shutil
from pathlib import Path

from agi_core.errors import ConfigError
from agi_core.metric_names import METRIC_NAMES
from agi_core.run import run_folder


def write_scalars(run_dir: Path) -> Path:
    """Write `tensorboard/` of a run anew from its events, and return its path.

    Raises:
        ConfigError: TensorBoard is not installed. RunError: the folder holds no events.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, because TensorBoard is an extra
    except ImportError:
        raise ConfigError("TensorBoard is not installed; add it with: pip install '.[tensorboard]'") from None
    events = run_folder.read_events(run_dir)
    folder = run_dir / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for event in events:
            for name, value in _figures(event).items():
                writer.add_scalar(name, value, event["round"])
    return folder


def _figures(event: run_folder.Event) -> dict[str, float]:
    """{"figure/site": value} of one event."""
    match event:
        case {"event": "round_finished", "train_loss": losses, "seconds": seconds}:
            rows = {"train_loss": losses, "seconds": seconds}
            return {f"{name}/{site}": value for name, row in rows.items() for site, value in row.items()}
        case {"event": "validated", "mean": mean, "sites": sites}:
            rows = {**sites, **({"all sites": mean} if mean else {})}
            return {
                f"validation_{name}/{site}": row[name]
                for site, row in rows.items()
                for name in METRIC_NAMES
                if name in row
            }
    return {}
