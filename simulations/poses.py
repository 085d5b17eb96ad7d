"""The reference of a simulation, and whether its target is aligned, by its training subjects' scans
(`agi_core.poses`)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from agi_core.config.schema import RunConfig
from agi_core.data.preparation import Preparation
from agi_core.data.scans import Scans, Subject
from agi_core.poses import SUBJECTS, offsets_mm, with_poses
from agi_core.scenario import parse_scenario


def measures_poses(config: RunConfig) -> bool:
    """Whether a run may choose by its subjects' scans. A private one may not: without noise, a choice tells of them.
    One that registers its scans has no poses left."""
    return not config.privacy.on and config.data.register == "none"


def with_measured_poses(
    config: RunConfig, training: Mapping[str, Sequence[Subject]], *, reference_chosen: bool
) -> tuple[RunConfig, str]:
    """The configuration as `agi_core.poses.with_poses` leaves it, and its sentence; empty where nothing was to be
    chosen, or where no slice holds a head.

    Args:
        training: subjects that train; nobody who validates or tests.

    Raises:
        DataError: a scan is unusable.
    """
    if not measures_poses(config) or (reference_chosen and config.training.align_target is not None):
        return config, ""
    measured = measured_offsets_mm(config, training)
    return with_poses(config, measured, reference_chosen=reference_chosen) if measured else (config, "")


def measured_offsets_mm(config: RunConfig, training: Mapping[str, Sequence[Subject]]) -> dict[str, dict[str, float]]:
    """{site: its `offsets_mm`} of the sites that have a slice with a head."""
    scans, cache_dir = Scans.of(config.data), Path(config.data.cache_dir).resolve()
    preparation = Preparation.of(config, scans, cache_dir=cache_dir, whole=False, threads=config.threads)
    scenario = parse_scenario(config.scenario)
    measured = {
        site: offsets_mm(preparation.open(subjects[:SUBJECTS]), scenario) for site, subjects in training.items()
    }
    return {site: offsets for site, offsets in measured.items() if not any(map(math.isnan, offsets.values()))}
