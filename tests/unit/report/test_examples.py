import dataclasses
from pathlib import Path

import numpy as np
import pytest

from agi_core.errors import RunError
from agi_core.report.examples import Example, MovedSource, read_examples, write_examples

RNG = np.random.default_rng(0)


def example(title: str, *, sources: tuple[str, ...]) -> Example:
    def image() -> np.ndarray:
        return RNG.random((9, 7), dtype=np.float32)

    images = {name: image()[::-1, ::-1] for name in sources}  # a view with negative strides, as a flip gives
    return Example("HH", True, title, images, image(), image(), image() > 0.5, (1.75, 1.5))


def test_radiological_view_has_anterior_on_top_and_right_on_the_left() -> None:
    image = np.zeros((4, 6), np.float32)
    image[3, 5] = 1  # the most anterior, rightmost pixel
    whole = Example("HH", True, "HH, test subject 1", {}, image, image, image < 0)
    assert np.argwhere(whole.as_seen(image)).tolist() == [[0, 0]]
    assert whole.aspect == 6 / 4


def test_a_slice_is_cut_to_the_head_with_a_margin_of_8() -> None:
    head = np.zeros((60, 50), bool)
    head[20:30, 5:41] = True
    seen = Example("HH", True, "HH, test subject 1", {}, head * 1.0, head * 1.0, head, (2.0, 1.0))
    cut = seen.as_seen(np.stack([head, head]))
    assert cut.shape == (2, 10 + 2 * 8, 41 + 8)  # 5 voxels are all that there are on one side
    assert np.argwhere(cut[0]).min(axis=0).tolist() == [8, 8]
    assert seen.aspect == 49 / (2 * 26)


def test_examples_come_back_in_order_within_half_precision(tmp_path: Path) -> None:
    written = [example("HH, test subject 1", sources=("T2", "T1")), example("HH, test subject 2", sources=("PD",))]
    write_examples(tmp_path, written)
    read = read_examples(tmp_path)
    assert [(e.site, e.unseen, e.title, e.spacing_mm) for e in read] == [
        (e.site, e.unseen, e.title, e.spacing_mm) for e in written
    ]
    for ours, theirs in zip(written, read, strict=True):
        assert list(theirs.sources) == list(ours.sources)
        for name in ours.sources:
            np.testing.assert_allclose(theirs.sources[name], ours.sources[name], atol=5e-4)
        np.testing.assert_allclose(theirs.target, ours.target, atol=5e-4)
        np.testing.assert_allclose(theirs.prediction, ours.prediction, atol=5e-4)
        np.testing.assert_array_equal(theirs.foreground, ours.foreground)


def test_diagnostics_come_back(tmp_path: Path) -> None:
    plain = example("HH, test subject 1", sources=("T1", "T2", "PD"))
    true_mm = RNG.random((3, 9, 7)) * 20
    moved = {
        "T1": MovedSource(RNG.random((9, 7)), RNG.random((2, 9, 7)) * 20, true_mm),
        "PD": MovedSource(RNG.random((9, 7)), RNG.random((3, 9, 7)) * 20),
    }
    attention, through_plane = {"encoder.0.conv1": {"T1": 0.4}}, {"axial": (0.75, 0.5)}
    earlier = {0: RNG.random((9, 7)), 16: RNG.random((9, 7))}
    written = dataclasses.replace(plain, earlier=earlier, moved=moved, attention=attention, through_plane=through_plane)
    write_examples(tmp_path, [plain, written])
    without, full = read_examples(tmp_path)
    assert (without.earlier, without.moved, without.attention, without.through_plane) == ({}, {}, {}, {})
    assert [*full.earlier] == [0, 16]
    for round, image in earlier.items():
        np.testing.assert_allclose(full.earlier[round], image, atol=5e-4)
    assert (full.attention, full.through_plane) == (attention, through_plane)
    assert list(full.moved) == ["T1", "PD"]
    for name, source in moved.items():
        np.testing.assert_allclose(full.moved[name].aligned, source.aligned, atol=5e-4)
        np.testing.assert_allclose(full.moved[name].offset_mm, source.offset_mm, atol=0.01)
    assert full.moved["T1"].true_offset_mm == pytest.approx(true_mm, abs=0.01)
    assert full.moved["PD"].true_offset_mm is None


def test_a_run_without_examples_has_none(tmp_path: Path) -> None:
    assert read_examples(tmp_path) == []
    write_examples(tmp_path, [])
    assert read_examples(tmp_path) == []


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    write_examples(tmp_path, [example("HH, test subject 1", sources=("T1",))])
    path = tmp_path / "examples.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"examples\.safetensors cannot be read"):
        read_examples(tmp_path)
