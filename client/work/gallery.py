"""`--gallery MODEL.zip`: what an exported model makes of the site's test subjects, also with the site's own weights.
Nothing leaves."""

from importlib.metadata import version
from pathlib import Path

import torch

from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evenly_spaced
from agi_core.errors import DataError, RunError
from agi_core.evaluation import predict_session
from agi_core.export.archive import read_archive
from agi_core.host.device import open_device
from agi_core.network import Network
from agi_core.protocol import Weights
from agi_core.report.examples import Example
from agi_core.report.gallery import Shown, write_gallery
from agi_core.run import progress
from agi_core.run.own_weights import read_own_weights
from client.site.file import DeployedSite
from client.site.opened import OpenSite

MAX_SUBJECTS, SLICES = 20, 3  # of each subject


def gallery(site: DeployedSite, model_path: Path) -> tuple[Path, bool]:
    """Write the page into the state folder; its path, and whether the site has weights of its own for this model.

    Raises:
        RunError: the zip cannot be used. DataError: the site has no test subject, or a scan is unusable.
    """
    description, weights, _ = read_archive(model_path, release=version("agi-fed"))
    network = Network(description.task, device=open_device(site.device, threads=site.threads))
    network.load(weights)
    own = _own_weights(Path(site.state_dir), network)
    sessions = OpenSite(site).scans(description.task).test[:MAX_SUBJECTS]
    if not sessions:
        raise DataError(f"site {site.site} has no test subject: it needs two subjects for one")
    slices, on_session = list[Shown](), progress.steps_of("gallery", site.site)
    for done, session in enumerate(sessions, start=1):
        slices += _slices(network, session, own=own)
        on_session(done, len(sessions))
    path = Path(site.state_dir) / "gallery" / f"{model_path.stem}.html"
    subjects = len({session.subject_id for session in sessions})
    write_gallery(path, slices, site=site.site, target=network.scenario.target, subjects=subjects)
    return path, own is not None


def _own_weights(state_dir: Path, network: Network) -> Weights | None:
    """What this site has made its own of these very weights."""
    for path in sorted((state_dir / "heads").glob("*.safetensors")):
        try:
            return read_own_weights(path, network=network)
        except RunError:  # of another run
            continue
    return None


def _slices(network: Network, session: CachedSession, *, own: Weights | None) -> list[Shown]:
    right_mm, anterior_mm, _ = session.spacing_mm
    chosen, shown = evenly_spaced(session, SLICES), list[Shown]()
    for prediction, batch in predict_session(network, session, indices=chosen):
        for n, k in enumerate(batch.indices):
            sources = batch.sources[n]
            if network.neighbours:
                sources = sources[:, network.neighbours]
            example = Example(
                site="",
                unseen=False,
                title=f"{session.subject_id}, slice {k + 1} of {session.shape[0]}",
                sources=dict(zip(network.scenario.sources, sources.numpy(), strict=True)),
                target=batch.target[n, 0].numpy(),
                prediction=prediction[n, 0].numpy(),
                foreground=batch.foreground[n, 0].numpy(),
                spacing_mm=(anterior_mm, right_mm),
            )
            shown.append(Shown(example, None))
    if own is None:
        return shown
    common = {name: array.copy() for name, array in network.weights.items()}
    network.load({**common, **own})
    predictions = torch.cat([prediction for prediction, _ in predict_session(network, session, indices=chosen)])
    network.load(common)
    return [Shown(its.example, image[0].numpy()) for its, image in zip(shown, predictions, strict=True)]
