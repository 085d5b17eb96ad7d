"""What is measured of sources, and when a measure is out of range. Each change moves the measures that it should."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from agi_core.config.schema import GridConfig, Task
from agi_core.data.nifti import Volume
from agi_core.data.preprocess import Prepared, align
from agi_core.errors import DataError, RunError
from agi_core.known_range import (
    FALSE_ALARMS,
    KnownRange,
    Measures,
    Verdict,
    known_range_in,
    measure,
    read_known_range,
)
from agi_core.models.model_config import ModelConfig
from agi_core.network import Network

SHAPE, SPACING = (40, 44, 24), (4.0, 4.0, 6.0)
Volumes = Mapping[str, Volume]
UNALIGNED_TASK = Task(scenario="T1,T2:PD", reference="T2", model=ModelConfig(widths=(4, 4), alignment="none"))
UNALIGNED = Network(UNALIGNED_TASK)


def subject(seed: int) -> Volumes:
    """Two scans of a stripped head with a cavity and a rim: what is dark in the one is bright in the other."""
    rng = np.random.default_rng(seed)
    at = np.moveaxis((np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2) * SPACING, -1, 0)
    radii = np.array([62, 75, 60])[:, None, None, None] * rng.normal(1, 0.02, (3, 1, 1, 1))
    radius = ((at / radii) ** 2).sum(axis=0).T
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    tissue = np.select([radius < 0.15, radius < 0.6], [0.2, 0.8], 0.5) + 0.3 * texture
    affine = np.diag([*SPACING, 1.0])
    return {
        name: Volume(np.where(radius < 1, 50 + 800 * value.clip(0.01), 0).astype(np.float32), affine)
        for name, value in {"T1": tissue, "T2": 0.3 + 0.7 * (1 - tissue) ** 2}.items()
    }


def measured(volumes: Volumes, network: Network | None = None) -> Measures:
    return measure(volumes, align(volumes, to="T2", spacing_mm=None, place="here"), network=network)


@pytest.fixture(scope="module")
def known() -> KnownRange:
    return KnownRange.over([measured(subject(seed)) for seed in range(12)], of="training")


def with_data(volumes: Volumes, change: Callable[[np.ndarray], np.ndarray]) -> Volumes:
    return {m: dataclasses.replace(volume, data=change(volume.data)) for m, volume in volumes.items()}


def larger_voxels(volumes: Volumes, times: tuple[int, int, int]) -> Volumes:
    scale = np.diag([*times, 1])
    return {m: dataclasses.replace(volume, affine=volume.affine @ scale) for m, volume in volumes.items()}


def half(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[: SHAPE[0] // 2] = 0
    return data


def turned(data: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.rotate(data, 25, axes=(1, 2), reshape=False, order=0))


def lesion(volumes: Volumes) -> Volumes:
    """A ball of a quarter of the head's width, bright in T2 and dark in T1."""
    inside = np.linalg.norm((np.indices(SHAPE).T - (26, 22, 12)) * SPACING, axis=-1).T < 30
    return {
        m: dataclasses.replace(v, data=np.where(inside, 950 if m == "T2" else 60, v.data).astype(np.float32))
        for m, v in volumes.items()
    }


def test_new_subjects_are_in_range_and_ten_times_the_intensity_is_no_difference(known: KnownRange) -> None:
    for seed in range(20, 30):
        assert known.reasons(measured(subject(seed))) == ()
    usual, bright = measured(subject(20)), measured(with_data(subject(20), lambda data: data * 10))
    assert bright == pytest.approx(usual, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: {"T1": v["T2"], "T2": v["T1"]}, "intensities of T1"),
        (lambda v: {**v, "T2": dataclasses.replace(v["T1"], data=v["T1"].data * 1.5)}, "T1 beside T2"),
        (lambda v: larger_voxels(v, (2, 2, 2)), "head"),
        (lambda v: larger_voxels(v, (1, 1, 2)), "voxels of T1"),
        (lambda v: with_data(v, half), "head"),
        (lambda v: with_data(v, turned), "pose of the head"),
        (lambda v: with_data(v, lambda data: data[:, :, 12:]), "field of view of T2"),
        (lambda v: {**v, "T1": dataclasses.replace(v["T1"], data=np.roll(v["T1"].data, 4, axis=1))}, "T1 beside T2"),
        (lesion, "left and right of T1"),
    ],
)
def test_what_a_model_does_not_know(known: KnownRange, change: Callable[[Volumes], Volumes], told: str) -> None:
    reasons = known.reasons(measured(change(subject(20))))
    assert told in [reason.partition(":")[0] for reason in reasons], reasons


@pytest.mark.parametrize("model", [{"neighbours": 1}, {"dims": 3}])
def test_sources_that_lie_apart_agree_after_alignment(model: dict[str, Any]) -> None:
    """Moved by 8 mm, they agree less as they lie, and much better once the network has laid them on each other."""
    grid = GridConfig(crop=(40, 40, 16)) if "dims" in model else GridConfig()
    config = ModelConfig(widths=(4, 8), alignment="affine", **model)
    network = Network(Task(scenario="T1,T2:PD", reference="T2", model=config, grid=grid))
    volumes = subject(20)
    volumes = {**volumes, "T1": dataclasses.replace(volumes["T1"], data=np.roll(volumes["T1"].data, 2, axis=1))}
    found = measured(volumes, network)
    name = "T1 beside T2: mutual information "
    assert found[f"{name}after alignment"] > found[f"{name}in the head"] + 0.05
    plain = Network(Task(scenario="T1,T2:PD", model=ModelConfig(widths=(4, 8), alignment="none")))
    assert not [name for name in measured(volumes, plain) if "alignment" in name]
    assert measured(volumes, plain) == measured(volumes)


def test_a_mirror_image_is_in_range(known: KnownRange) -> None:
    """Left and right of a head are too alike: this is not found, and the documents say so."""
    assert known.reasons(measured(with_data(subject(20), lambda data: data[::-1].copy()))) == ()


def test_the_range_by_hand_and_its_sentence() -> None:
    known = KnownRange.over([{"a: b": x, "size: mm": 100.0} for x in (1.0, 2.0, 3.0, 4.0, 5.0)], of="training")
    t = stats.t.ppf(1 - FALSE_ALARMS / 4, 4)
    reach = t * np.sqrt(2.5) * np.sqrt(1.2)
    assert known.halves()["a: b"] == pytest.approx(reach)
    assert known.halves()["size: mm"] == pytest.approx(5)  # a twentieth, where all are alike
    assert known.reasons({"a: b": 3 + 0.99 * reach, "size: mm": 104.9}) == ()
    assert known.reasons({"a: b": 3.0, "size: mm": 105.1}) == ("size: mm is 105, and 95 to 105 was expected",)
    assert known.reasons({"another: measure": 1e9}) == ()


@pytest.mark.parametrize(
    ("name", "mean", "spread", "found", "expected"),
    [
        ("T1 and T2: correlation in the head", 0.5, 0.25, -0.9, "-0.761 to 1"),
        ("T1 and T2: mutual information in the head", 0.3, 0.1, 0.9, "0 to 0.804"),
        ("head: volume, litres", 1.5, 0.5, 5.0, "0 to 4.02"),
    ],
)
def test_no_more_is_expected_than_can_be(name: str, mean: float, spread: float, found: float, expected: str) -> None:
    known = KnownRange("training", 5, {name: mean}, {name: spread})
    assert known.reasons({name: found})[0].endswith(f", and {expected} was expected")


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(0)
    names = [f"{n}: measure" for n in range(30)]
    alarms = []
    for _ in range(400):
        *seen, new = (dict(zip(names, row, strict=True)) for row in rng.normal(0, 1, (11, 30)).tolist())
        alarms.append(bool(KnownRange.over(seen, of="training").reasons(new)))
    assert 0 < np.mean(alarms) < 2 * FALSE_ALARMS


def test_the_file(known: KnownRange, tmp_path: Path) -> None:
    path = tmp_path / "known_range.json"
    assert read_known_range(path, network=UNALIGNED) is None
    known.write(path)
    assert read_known_range(path, network=UNALIGNED) == known
    other = Network(dataclasses.replace(UNALIGNED_TASK, scenario="FLAIR,T2:PD"))
    with pytest.raises(RunError, match="the known range of another model's sources; make it again with"):
        read_known_range(path, network=other)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        read_known_range(path, network=UNALIGNED)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"subjects": 4}, "no range of 5 subjects"),
        ({"subjects": -3}, "no range of 5 subjects"),
        ({"of": "\x1b[2J training"}, "no range"),
        ({"spreads": {}}, "another model's sources"),
        ({"means": {}, "spreads": {}}, "another model's sources"),
        ({"means": "none"}, "damaged"),
    ],
)
def test_a_file_that_is_no_range_is_refused(known: KnownRange, change: dict[str, Any], cause: str) -> None:
    content = json.dumps(known.to_json() | change).encode()
    with pytest.raises(RunError, match=cause):
        known_range_in(content, place="here", network=UNALIGNED)


@pytest.mark.parametrize(
    ("part", "value"), [("means", float("nan")), ("means", 0.0), ("spreads", -1.0), ("spreads", float("inf"))]
)
def test_a_number_that_no_subjects_have_is_refused(known: KnownRange, part: str, value: float) -> None:
    values = known.to_json()
    values[part]["head: volume, litres"] = value
    with pytest.raises(RunError, match="no range of 5 subjects or more"):
        known_range_in(json.dumps(values).encode(), place="here", network=UNALIGNED)


def test_a_deep_file_is_damaged() -> None:
    with pytest.raises(RunError, match="or is damaged"):
        known_range_in(b"[" * 200_000, place="here", network=UNALIGNED)


def test_a_verdict_remembers_its_reasons(known: KnownRange) -> None:
    verdict, volumes = Verdict(known, UNALIGNED, None), with_data(subject(20), half)
    assert tuple(verdict(volumes, align(volumes, to="T2", spacing_mm=None, place="here"))) == verdict.reasons != ()


def test_the_grid_of_the_output_is_no_reason_against_its_sources() -> None:
    """T1 lacks the lowest slices of the head, in every subject: on its grid the head is smaller than on that of T2."""

    def subject_with(slices: slice, *, seed: int) -> Volumes:
        volumes = subject(seed)
        affine = volumes["T1"].affine.copy()
        affine[2, 3] += slices.start * SPACING[2]
        return {**volumes, "T1": Volume(volumes["T1"].data[:, :, slices], affine)}

    def on(grid: str, volumes: Volumes) -> Prepared:
        return align(volumes, to=grid, spacing_mm=None, place="here")

    upper, slab = slice(8, 24), slice(10, 15)
    ordinary = [subject_with(upper, seed=seed) for seed in range(13)]
    known = KnownRange.over([measured(one) for one in ordinary[:12]], of="training")
    assert known.reasons(measure(ordinary[12], on("T1", ordinary[12])))
    for grid in ("T1", "T2"):
        assert Verdict(known, UNALIGNED, None)(ordinary[12], on(grid, ordinary[12])) == ()
    cut = subject_with(slab, seed=20)
    (reason,) = Verdict(known, UNALIGNED, None)(cut, on("T1", cut))
    assert reason.startswith("on the grid of T2: T1 covers")


def test_few_subjects_have_no_range() -> None:
    with pytest.raises(DataError, match="a range of 4 subjects says little"):
        KnownRange.over([{"a: b": 1.0}] * 4, of="training")


def test_a_single_slice_has_no_tilt_and_is_in_no_range(known: KnownRange) -> None:
    slices = [measured(with_data(subject(seed), lambda data: data[:, :, 12:13])) for seed in range(5)]
    tilt = "pose of the head: tilt in the sagittal plane"
    with pytest.raises(DataError, match=f"5 of 5 subjects have no {tilt}: their head is too small to measure"):
        KnownRange.over(slices, of="training")
    assert known.distances({tilt: np.nan}) == {tilt: np.inf}
    assert known.reasons({tilt: np.nan})[0].startswith(f"{tilt} is nan, and ")
