"""In whose pose does the target lie? Measured on training subjects, so that a run does not depend on names and headers.

Each source is aligned onto the target, slice by slice, in the plane (`agi_core.models.alignment`); the length of the
offsets says how far apart the two lie. Where nothing has moved, about 0.2 mm are found (docs/alignment.md).
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from agi_core.config.schema import Task
from agi_core.data.cached_session import CachedSession
from agi_core.data.datasets import evaluation_slices, validation_subset
from agi_core.models.alignment.group_alignment import GroupAlignment
from agi_core.models.model_config import ModelConfig
from agi_core.scenario import Scenario, parse_scenario

T = TypeVar("T", bound=Task)
MOVED_MM = 0.6
"""Three times what is found where nothing has moved: then the target lies in a pose of its own."""
SUBJECTS, SLICES = 8, 2  # of each site; of each session


def offsets_mm(sessions: Iterable[CachedSession], scenario: Scenario) -> dict[str, float]:
    """{source: the median over slices of its mean offset to the target within the head, in mm}; NaN without a slice
    that holds a head."""
    lengths = torch.cat([_lengths_mm(session, scenario) for session in sessions])
    median = lengths.median(dim=0).values if len(lengths) else torch.full((len(scenario.sources),), torch.nan)
    return dict(zip(scenario.sources, median.tolist(), strict=True))


def with_poses(task: T, offsets_mm: Mapping[str, Mapping[str, float]], *, reference_chosen: bool) -> tuple[T, str]:
    """The task with the reference and `training.align_target` that the scans ask for, where the user has not chosen,
    and a sentence that says so. The reference is the source that lies nearest to the target at most sites, and the
    distance is the median over them: no single site decides.

    Args:
        offsets_mm: {site: those of its scans}, of one site or more.
    """
    scenario = parse_scenario(task.scenario)
    usual_mm = {source: statistics.median(site[source] for site in offsets_mm.values()) for source in scenario.sources}
    reference = scenario.reference(task.reference) if reference_chosen else _nearest(offsets_mm, usual_mm)
    moved, align = usual_mm[reference] > MOVED_MM, task.training.align_target
    training = replace(task.training, align_target=moved if align is None else align)
    found = ", ".join(f"{source} {mm:.1f} mm" for source, mm in sorted(usual_mm.items(), key=lambda item: item[1]))
    text = f"measured distance to {scenario.target} in the plane: {found}; reference {reference}"
    if moved and align is None:
        text += f". No source lies in the pose of {scenario.target}, so it is aligned too, in training alone"
    farthest_mm = max(mm for site in offsets_mm.values() for mm in site.values())
    if len(usual_mm) > 1 and farthest_mm <= MOVED_MM and task.model.alignment != "none":
        text += (
            f". All sources lie in the pose of {scenario.target} at every site: model.alignment=none takes less time,"
            " and may be better"
        )
    return replace(task, reference=reference, training=training), text


def _lengths_mm(session: CachedSession, scenario: Scenario) -> torch.Tensor:
    """Mean offset within the head of each source in some slices, (slices, M)."""
    alignment = GroupAlignment(ModelConfig(alignment="affine"), reference=0)
    right_mm, anterior_mm, _ = session.spacing_mm
    per_voxel_mm = torch.tensor([anterior_mm, right_mm])[:, None, None]
    lengths = [torch.empty(0, len(scenario.sources))]
    for _, indices in validation_subset([session], limit=SLICES):
        for batch in evaluation_slices(session, batch_size=SLICES, indices=indices):
            offsets = alignment.offsets(torch.cat([batch.target, batch.sources], dim=1))[:, 1:] * per_voxel_mm
            head = batch.foreground.float()
            lengths.append((offsets.norm(dim=2) * head).sum(dim=(2, 3)) / head.sum(dim=(2, 3)))
    return torch.cat(lengths)


def _nearest(offsets_mm: Mapping[str, Mapping[str, float]], usual_mm: Mapping[str, float]) -> str:
    """The source that is nearest at most sites; of equals the nearest by the median over sites."""
    votes = Counter(min(site, key=lambda source: site[source]) for site in offsets_mm.values())
    return max(votes, key=lambda source: (votes[source], -usual_mm[source]))
