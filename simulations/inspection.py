"""What the report's diagnostics are made from: alignment and attention of the model on a test subject's scans."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from agi_core.config.schema import DataConfig, RunConfig
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evaluation_slices
from agi_core.data.phantom.truth import read_poses, true_offset_mm
from agi_core.metrics import neighbour_ssim
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.cross_group_attention import CrossGroupAttention
from agi_core.network import Network
from agi_core.report.diagnostics import PLANES
from agi_core.report.examples import MovedSource
from agi_core.scenario import parse_scenario


def moved_sources(network: Network, session: CachedSession, k: int, *, data: DataConfig) -> dict[str, MovedSource]:
    """Slice `k` of every source but the reference as the alignment brings it onto the reference; none without one.

    A 3-D alignment is shown as many slices around `k` as in training.
    """
    alignment, box = network.module.alignment, session.source_box
    if not isinstance(alignment, GroupAlignment):
        return {}
    if network.volumetric:
        depth = network.crop[2]
        first = max(k - depth // 2, 0)
        block = session.read_block(slice(first, min(first + depth, session.shape[0])), *box)[:, :-1]
        sources = torch.from_numpy(block.astype(np.float32)).transpose(0, 1)[None]
        aligned, offsets = alignment(sources)[:, :, k - first], alignment.offsets(sources)[:, :, :, k - first]
    else:
        (slices,) = evaluation_slices(session, batch_size=1, indices=[k], neighbours=network.neighbours)
        sources = slices.sources[..., *box]
        aligned, offsets = alignment(sources), alignment.offsets(sources)

    def whole(image: Tensor) -> Tensor:
        result = image.new_zeros(*image.shape[:-2], *session.shape[-2:])
        result[..., *box] = image
        return result

    offsets_mm = offsets * offsets.new_tensor(session.spacing_mm[::-1])[-offsets.shape[2] :, None, None]
    registered = data.register != "none"  # then scans are no longer where they were made
    poses = {} if registered else read_poses(Path(str(data.dir)), session.subject_id)
    reference = network.reference
    moved = {}
    for m, name in enumerate(network.scenario.sources):
        if name == reference:
            continue
        true_mm = None
        if name in poses and reference in poses:
            true_mm = true_offset_mm(source=poses[name], reference=poses[reference], grid=session.grid, k=k)
        moved[name] = MovedSource(whole(aligned[0, m]).numpy(), whole(offsets_mm[0, m]).numpy(), true_mm)
    return moved


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """{layer: mean attention (B, G) of each group, call by call} of what the model is shown within."""
    seen: dict[str, list[Tensor]] = {}

    def record(layer: str, module: CrossGroupAttention, _: object, attention: Tensor) -> None:
        seen.setdefault(layer, []).append(attention.reshape(len(attention), module.groups, -1).mean(2).cpu())

    hooks = [
        module.register_forward_hook(partial(record, name.removesuffix(".attention")))
        for name, module in model.named_modules()
        if isinstance(module, CrossGroupAttention)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def mean_attention(seen: dict[str, list[Tensor]], *, config: RunConfig) -> dict[str, dict[str, float]]:
    """{layer: {group: mean over what was shown}}; the groups of the first layer are the sources, without a stem."""
    means: dict[str, dict[str, float]] = {}
    for layer, calls in seen.items():
        values = torch.cat(calls).mean(0).tolist()
        names = [f"group {number}" for number in range(1, len(values) + 1)]
        if layer == "encoder.0.conv1" and not config.model.stem:
            names = list(parse_scenario(config.scenario).sources)
        means[layer] = dict(zip(names, values, strict=True))
    return means


def through_plane(target: Tensor, prediction: Tensor, foreground: Tensor) -> dict[str, tuple[float, float]]:
    """{plane: `neighbour_ssim` of (target, prediction)} of volumes (D, H, W); planes too small for it are left out."""
    result = {}
    for axis, plane in enumerate(PLANES):
        head = foreground.movedim(axis, 0)
        theirs, ours = (neighbour_ssim(volume.movedim(axis, 0), head) for volume in (target, prediction))
        if theirs is not None and ours is not None:
            result[plane] = theirs, ours
    return result
