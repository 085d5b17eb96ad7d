"""The section of examples whose diagnostics are known by hand."""

import dataclasses
import re

import numpy as np
import pytest

from agi_core.report.diagnostics import diagnostics, radial_spectrum
from agi_core.report.examples import Example, MovedSource

IMAGE = np.random.default_rng(0).random((32, 40)).astype(np.float32)
PLAIN = Example("HH", False, "<HH>, test subject 1", {"T1": IMAGE, "T2": IMAGE}, IMAGE, IMAGE / 2, IMAGE > 0.1)


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


@pytest.mark.parametrize(("axis", "mm"), [(0, 1.5), (1, 2.0)])
def test_spectrum_of_a_cosine_peaks_at_its_frequency(axis: int, mm: float) -> None:
    """12 periods over 64 pixels; a cosine of amplitude 1 has a power of 1/2 per pixel, all of it at two frequencies."""
    wave = 3 + np.cos(2 * np.pi * 12 * np.arange(64) / 64)
    image = np.moveaxis(np.broadcast_to(wave, (48, 64)), 1, axis)
    edges = np.linspace(0, 0.25, 17)
    power = radial_spectrum([image], [(mm, mm)], edges=edges)
    peak = int(np.argmax(power))
    assert edges[peak] <= 12 / (64 * mm) <= edges[peak + 1]
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, mm) for n in image.shape), indexing="ij"))
    in_ring = np.count_nonzero((edges[peak] <= radius) & (radius < edges[peak + 1]))
    assert power[peak] == pytest.approx(48 * 64 / 2 / in_ring)
    assert np.delete(power, peak).max() < 1e-9


def test_offsets_are_told_in_mm_and_against_the_truth() -> None:
    """Predicted 3 mm anterior and 4 mm right. The truth is 1.5 mm longer along one axis, and 9 mm through the plane,
    which a model of single slices is not blamed for."""
    offset_mm = np.broadcast_to(np.array([3.0, 4.0])[:, None, None], (2, 32, 40))
    true_mm = np.broadcast_to(np.array([9.0, 3.0, 5.5])[:, None, None], (3, 32, 40))
    known = dataclasses.replace(PLAIN, moved={"T1": MovedSource(IMAGE, offset_mm, true_mm)})
    page = diagnostics([known])
    median_true = np.hypot(3.0, 5.5)
    assert f"<HH>, test subject 1, T1 5.00 mm 5.00 mm {median_true:.2f} mm 1.50 mm 1.50 mm" in text_of(page).replace(
        "&lt;HH&gt;", "<HH>"
    )
    assert {"T1 on T2, before", "T1 on T2, after", "Offsets"} <= set(re.findall("<b>([^<]*)</b>", page))
    unknown = dataclasses.replace(PLAIN, moved={"T1": MovedSource(IMAGE, offset_mm)})
    assert "T1 5.00 mm 5.00 mm unknown – –" in text_of(diagnostics([unknown]))


def test_attention_is_the_mean_over_the_examples() -> None:
    shown = [
        dataclasses.replace(
            PLAIN, attention={"encoder.0.conv1": {"T1": a, "T2": 0.25}, "decoder.0.conv1": {"group 1": a}}
        )
        for a in (0.5, 0.75)
    ]
    text = text_of(diagnostics([*shown, PLAIN]))  # the last is another slice, without what is of its whole scan
    assert "encoder.0.conv1 T1 0.625, T2 0.250 decoder.0.conv1 group 1 0.625" in text


def test_planes_that_one_subject_lacks_stay_empty_there() -> None:
    thin = dataclasses.replace(PLAIN, title="thin", through_plane={"axial": (0.5, 0.75)})
    whole = dataclasses.replace(PLAIN, title="whole", through_plane={"axial": (0.5, 0.25), "sagittal": (1.0, 0.125)})
    text = text_of(diagnostics([thin, whole]))
    assert "thin 0.500 0.750 – – whole 0.500 0.250 1.000 0.125" in text
    assert "Coronal" not in text


def test_what_there_is_nothing_to_show_of_is_left_out() -> None:
    """Half the intensity is a quarter of the power, at every frequency."""
    text = text_of(diagnostics([PLAIN]))
    assert "Frequencies" in text
    assert "the prediction has 25% of the target's power" in text.replace("&#x27;", "'")
    assert not [part for part in ("Alignment", "attention", "through the plane") if part in text]
    assert "There are none: they are made from the example slices" in text_of(diagnostics([]))
