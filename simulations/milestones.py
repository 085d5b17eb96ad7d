"""What the model made of a test slice before training and after rounds 1, 4, 16, ...: pages to turn in the report.

Each is kept in `RUN/milestones/` when the next round begins, so that a run that is resumed has them too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from agi_core.config.schema import RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.evaluation import predict_session
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.report.examples import Image
from agi_core.run import checkpoint, progress
from agi_core.run.events import RoundStarted
from agi_core.run.progress import News
from client.site.opened import open_site

MILESTONES = frozenset({0, *(4**power for power in range(10))})
SITES = 3  # of a run, the first ones with a test subject


@contextmanager
def watched(run_dir: Path, config: RunConfig, site_paths: Mapping[str, Path]) -> Iterator[None]:
    """Within the block, whoever trains in this run folder leaves its milestones there. A model of volumes leaves none:
    each would cost a whole volume."""

    def hear(news: News) -> None:
        if isinstance(news, RoundStarted) and news.round - 1 in MILESTONES:
            path = _path(run_dir, news.round - 1)
            if not path.is_file():
                atomic.write_bytes(path, save(_predictions(run_dir, config, site_paths)))

    if config.model.dims == 3:
        yield
        return
    with progress.listening(hear):
        yield


def drop_damaged(run_dir: Path) -> list[int]:
    """Delete the files that cannot be read, as after a crash of the machine; their rounds."""
    dropped = []
    for path in sorted((run_dir / "milestones").glob("*.safetensors")):
        try:
            load(path.read_bytes())
        except SafetensorError:
            path.unlink()
            dropped.append(int(path.stem))
    return dropped


def read_milestones(run_dir: Path, site: str) -> dict[int, Image]:
    """{round: the prediction (H, W)} of the site's `shown_slice`, in order; empty for a site that is not shown."""
    found = {int(path.stem): load(path.read_bytes()) for path in sorted((run_dir / "milestones").glob("*.safetensors"))}
    return {round: images[site] for round, images in found.items() if site in images}


def shown_slice(session: CachedSession) -> int:
    """The number of the slice with most foreground."""
    return int(np.argmax(session.foreground_fraction))


def _path(run_dir: Path, round: int) -> Path:
    return run_dir / "milestones" / f"{round:05d}.safetensors"


def _predictions(run_dir: Path, config: RunConfig, site_paths: Mapping[str, Path]) -> dict[str, Image]:
    network = Network(config)
    network.load(checkpoint.load_weights(run_dir))
    predictions: dict[str, Image] = {}
    for site in config.federation.sites:
        if len(predictions) < SITES and (tests := open_site(site_paths[site]).scans(config.task).test):
            ((prediction, _),) = predict_session(network, tests[0], indices=[shown_slice(tests[0])])
            predictions[site] = prediction[0, 0].numpy().astype(np.float16)
    return predictions
