"""Whether the sources of one volume lie within what a model has seen: what is measured of them, and its usual range.

Each measure is one number of one subject: percentiles of a source's intensities as the network sees them, how two
sources agree voxel by voxel, voxel sizes and fields of view, size, place and tilt of the head, and how alike its left
and right are. Kept with a run are mean and spread of each over subjects, never a subject's own. A new subject is in
range if every measure lies within

    mean -+ t spread sqrt(1 + 1/n),    t of Student's distribution with n - 1 degrees of freedom

with t so large that of subjects with normal measures at most FALSE_ALARMS are called out of range by any of them.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import entr, stdtrit

from agi_core.data.nifti import Volume
from agi_core.data.preprocess import Prepared, align
from agi_core.data.slabs import source_box
from agi_core.errors import DataError, RunError
from agi_core.host import atomic
from agi_core.network import Network
from agi_core.prediction import slabs
from agi_core.run.json_objects import JsonObject

NAME = "known_range.json"  # in the folder of a run
OF_TRAINING, OF_CALIBRATION = "training", "calibration"  # subjects
FALSE_ALARMS = 0.01
FEWEST = 5
"""Subjects of a range: of fewer, hardly anything would lie outside."""
_LEAST_HALF, _LEAST_HALF_SHARE = 0.05, 0.05  # of a range: of measures without unit; of sizes, as a share of the mean
SIZES = ("mm", "litres")
_SIGNED = ("correlation", "tilt", "likeness", "balance")  # from -1 to 1; others, but sizes, from 0 to 1
_AXES = ("right", "anterior", "superior")
_PLANES = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}  # of two axes
_PERCENTILES = (5, 25, 50, 75, 95)
_SAMPLE, _BINS = 100_000, 32
SLICES = 4
"""That are aligned to see whether sources agree then."""

Measures = dict[str, float]
"""By names `WHAT: MEASURE`; what a person is told is one measure of each WHAT."""


def measure_names(sources: Sequence[str], *, aligned: bool) -> tuple[str, ...]:
    """The names of what `measure` finds of these sources, in its order; `aligned`: after alignment too."""
    pairs = [f"{one} beside {other}" for one, other in combinations(sources, 2)]
    names: list[str] = []
    for source in sources:
        for axis in _AXES:
            names += [f"voxels of {source}: {axis}, mm", f"field of view of {source}: {axis}, mm"]
        names += [f"intensities of {source}: percentile {percent} of the head" for percent in _PERCENTILES]
    for where in ("in the head", "after alignment")[: 1 + aligned]:
        names += [f"{pair}: {how} {where}" for pair in pairs for how in ("correlation", "mutual information")]
    names.append("head: volume, litres")
    for axis in _AXES:
        names += [f"head: {axis}, mm", f"head: share of the end of the field of view, {axis}"]
    names += [f"pose of the head: tilt in the {plane} plane" for plane in _PLANES]
    names += [f"left and right of {source}: {what}" for source in sources for what in ("likeness", "balance")]
    return tuple(names)


def names_of(network: Network) -> tuple[str, ...]:
    """The measures of a network's sources, in the order in which they travel."""
    return measure_names(network.scenario.sources, aligned=network.aligns)


def measure(volumes: Mapping[str, Volume], prepared: Prepared, *, network: Network | None = None) -> Measures:
    """The measures of one subject's sources, by `measure_names`.

    Args:
        volumes: the sources as they were read, in the order of M in `prepared`.
        prepared: the same on the reference's grid, without the target.
        network: if it aligns its sources, how they agree is measured after that too.
    """
    head, aligned = prepared.foreground, network is not None and network.aligns
    inside = np.flatnonzero(head)[:: max(1, int(head.sum()) // _SAMPLE)]
    values = [prepared.volumes[:, n].ravel()[inside].astype(np.float64) for n in range(len(volumes))]  # in the head
    found: list[float] = []
    for volume, its in zip(volumes.values(), values, strict=True):
        for mm, voxels in zip(volume.grid.spacing_mm, volume.grid.shape, strict=True):
            found += [mm, mm * voxels]
        found += np.percentile(its, _PERCENTILES).tolist()
    found += _agreement(values)
    if network is not None and aligned:
        found += _agreement(_aligned(network, prepared))
    found += _of_head(head, inside, np.array(prepared.grid.spacing_mm))
    for n in range(len(volumes)):
        found += _sides(prepared.volumes[:, n], head, inside)
    return dict(zip(measure_names([*volumes], aligned=aligned), map(float, found), strict=True))


def _agreement(values: Iterable[NDArray[np.float64]]) -> list[float]:
    """Correlation and mutual information of each two sources."""
    return [agree(*pair) for pair in combinations(values, 2) for agree in (_correlation, _information)]


def _aligned(network: Network, prepared: Prepared) -> Iterable[NDArray[np.float64]]:
    """The sources as the network aligns them, in the head: all of it in 3-D, else in SLICES slices."""
    head, sources = prepared.foreground, torch.from_numpy(prepared.volumes)
    if not network.volumetric:
        with_head = np.flatnonzero(head.any(axis=(1, 2)))
        chosen = with_head[np.linspace(0, len(with_head) - 1, SLICES + 2).round().astype(int)[1:-1]]
        head, sources = head[chosen], slabs(sources, chosen.tolist(), network.neighbours)
    rows, columns = source_box(prepared.volumes)
    aligned = network.aligned(sources[..., rows, columns]).double().numpy()
    return (aligned[:, n][head[:, rows, columns]] for n in range(aligned.shape[1]))


def _of_head(head: NDArray[np.bool_], inside: NDArray[np.int64], spacing_mm: NDArray[np.float64]) -> list[float]:
    """Size, place in the field of view, and pose of a head (D, H, W)."""
    found = [float(head.sum() * spacing_mm.prod() / 1e6)]
    at_mm = np.array(np.unravel_index(inside, head.shape))[::-1] * spacing_mm[:, None]  # right, anterior, superior
    covariance = np.cov(at_mm)
    for n in range(len(_AXES)):
        faces = head.take((0, -1), axis=2 - n)
        found += [4 * np.sqrt(covariance[n, n]), faces.mean()]  # of a box: 1.15 of its side
    with np.errstate(invalid="ignore"):  # of a single slice it is not a number
        for one, other in _PLANES.values():
            found.append(covariance[one, other] / np.sqrt(covariance[one, one] * covariance[other, other]))
    return found


def _sides(volume: NDArray[np.float32], head: NDArray[np.bool_], inside: NDArray[np.int64]) -> tuple[float, float]:
    """How a volume (D, H, W) correlates with its mirror image about the middle of the head, and how far its brightness
    lies to the right, as a share of the head's width."""
    d, h, w = np.unravel_index(inside, head.shape)
    mirrored = round(2 * w.mean()) - w
    there = (mirrored >= 0) & (mirrored < head.shape[2])
    there[there] = head[d[there], h[there], mirrored[there]]
    values = volume[d, h, w].astype(np.float64)
    alike = _correlation(values[there], volume[d[there], h[there], mirrored[there]].astype(np.float64))
    return alike, float(np.average(w, weights=values + 1e-9) - w.mean()) / float(np.ptp(w) + 1)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.size and one.std() and other.std() else 0.0


def _information(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Mutual information over the mean entropy of the two, 0 to 1, from a histogram of values in [0, 1]."""
    joint, *_ = np.histogram2d(one, other, bins=_BINS, range=((0, 1), (0, 1)))
    shares = joint / max(joint.sum(), 1)
    apart = entr(shares.sum(axis=1)).sum() + entr(shares.sum(axis=0)).sum()
    together = entr(shares).sum()
    return float(2 * (apart - together) / apart) if apart else 0.0


@dataclass(frozen=True)
class KnownRange(JsonObject):
    """Mean and spread (standard deviation) of each measure over so many subjects; `of` says which they are."""

    of: str
    subjects: int
    means: Mapping[str, float]
    spreads: Mapping[str, float]

    def __str__(self) -> str:
        """Whose it is."""
        return f"{self.subjects} {self.of} subjects"

    @classmethod
    def over(cls, subjects: Sequence[Measures], *, of: str) -> Self:
        """The range of these subjects. Raises DataError: they are fewer than FEWEST, or a measure is not finite."""
        if len(subjects) < FEWEST:
            raise DataError(f"a range of {len(subjects)} subjects says little; give at least {FEWEST}")
        table = {name: np.array([one[name] for one in subjects]) for name in subjects[0]}
        for name, values in table.items():
            if count := int((~np.isfinite(values)).sum()):
                raise DataError(
                    f"{count} of {len(values)} subjects have no {name}: their head is too small to measure, such as a"
                    " single slice; leave them out"
                )
        return cls(
            of,
            len(subjects),
            {name: float(values.mean()) for name, values in table.items()},
            {name: float(values.std(ddof=1)) for name, values in table.items()},
        )

    def write(self, path: Path) -> None:
        """Write the file that `read_known_range` reads. Raises RunError."""
        atomic.write_json(path, self.to_json())

    def halves(self) -> Measures:
        """Half the width of each measure's range."""
        t = stdtrit(self.subjects - 1, 1 - FALSE_ALARMS / (2 * len(self.means)))
        reach = float(t * np.sqrt(1 + 1 / self.subjects))
        least = {
            name: _LEAST_HALF_SHARE * abs(mean) if name.endswith(SIZES) else _LEAST_HALF
            for name, mean in self.means.items()
        }
        return {name: max(reach * self.spreads[name], least[name]) for name in self.means}

    def distances(self, found: Measures) -> Measures:
        """How far each measure lies from the mean, in halves of its range: above 1 it is out of range. What is not a
        number is infinitely far."""
        halves = {name: half for name, half in self.halves().items() if name in found}
        apart = {name: abs(found[name] - self.means[name]) / half for name, half in halves.items()}
        return {name: math.inf if math.isnan(distance) else distance for name, distance in apart.items()}

    def reasons(self, found: Measures) -> tuple[str, ...]:
        """A sentence for each WHAT that is out of range, of its measure that lies farthest out; none: in range."""
        halves = self.halves()
        worst: dict[str, str] = {}
        for name, distance in sorted(self.distances(found).items(), key=lambda item: -item[1]):
            if distance > 1:
                worst.setdefault(name.partition(":")[0], name)
        sentences = []
        for name in worst.values():
            low, high = _possible(name, self.means[name] - halves[name], self.means[name] + halves[name])
            sentences.append(f"{name} is {found[name]:.3g}, and {low:.3g} to {high:.3g} was expected")
        return tuple(sentences)


def _possible(name: str, low: float, high: float) -> tuple[float, float]:
    """The ends of a range as far as the measure goes: a size is not negative, a correlation at most 1."""
    least = -1.0 if any(what in name for what in _SIGNED) else 0.0
    return max(low, least), high if name.endswith(SIZES) else min(high, 1.0)


def read_known_range(path: Path, *, network: Network) -> KnownRange | None:
    """The range in a file of `KnownRange.write`; None where there is none.

    Raises:
        RunError: it cannot be read, or as `known_range_in`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); check what it is") from None
    return known_range_in(content, place=str(path), network=network)


def known_range_in(content: bytes, *, place: str, network: Network) -> KnownRange:
    """The range in a file's content; `place` is where it is from, for messages.

    Raises:
        RunError: it is damaged, or of other measures than those of the network's sources.
    """
    again = "make it again with python -m agi_core calibrate (for a zip: and export the run again)"
    try:
        known = KnownRange.from_json(json.loads(content))
    except (TypeError, ValueError, RecursionError):
        raise RunError(f"{place} is no known range, or is damaged; {again}") from None
    names = {*names_of(network)}
    if names != known.means.keys() or names != known.spreads.keys():
        raise RunError(f"{place} is the known range of another model's sources; {again}")
    sizes = [mean for name, mean in known.means.items() if name.endswith(SIZES)]
    spreads, means = [*known.spreads.values()], [*known.means.values()]
    possible = np.isfinite([*means, *spreads]).all() and min(sizes) > 0 <= min(spreads)
    if not possible or known.subjects < FEWEST or known.of not in (OF_TRAINING, OF_CALIBRATION):
        raise RunError(f"{place} is no range of {FEWEST} subjects or more; {again}")
    return known


@dataclass
class Verdict:
    """Whether the sources of a volume are in a range: it is called with them, and then knows `reasons` against it.

    Attributes:
        network: the one that the range is of. Its own sources are compared on the grid of its reference, as those of
            the range were, whatever grid the volume has.
        spacing_mm: the run's `grid.spacing_mm`.
    """

    known: KnownRange
    network: Network
    spacing_mm: tuple[float, float, float] | None
    reasons: tuple[str, ...] = ()

    def __call__(self, volumes: Mapping[str, Volume], prepared: Prepared) -> Iterable[str]:
        own, to = {name: volumes[name] for name in self.network.scenario.sources}, self.network.reference
        try:
            if prepared.to != to or len(own) < len(volumes):
                prepared = align(own, to=to, spacing_mm=self.spacing_mm, place=f"on the grid of {to}")
            self.reasons = self.known.reasons(measure(own, prepared, network=self.network))
        except DataError as error:  # they can be laid on the volume's grid, and not on this one
            self.reasons = (str(error),)
        return self.reasons


@dataclass
class BlendVerdict:
    """The same of a blend: what the range of each expert says of its own sources.

    Attributes:
        experts: the range of each, and its network.
        spacing_mm: the run's `grid.spacing_mm`.
    """

    experts: Sequence[tuple[KnownRange, Network]]
    spacing_mm: tuple[float, float, float] | None
    reasons: tuple[str, ...] = ()

    @property
    def known(self) -> str:
        """Whose the ranges are."""
        return " and ".join(f"{known} for {network.scenario}" for known, network in self.experts)

    def __call__(self, volumes: Mapping[str, Volume], prepared: Prepared) -> Iterable[str]:
        self.reasons = tuple(
            f"{reason} for {network.scenario}"
            for known, network in self.experts
            for reason in Verdict(known, network, self.spacing_mm)(volumes, prepared)
        )
        return self.reasons
