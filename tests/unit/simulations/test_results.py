"""What a simulation notes of its example slices."""

import numpy as np

from agi_core.report.examples import Example
from simulations.results import faults_of


def example(site: str, title: str, value: float) -> Example:
    """Mostly `value`, which is saturated at 0 and 1."""
    image = np.full((4, 4), value)
    image[0] = [0.2, 0.4, 0.6, 0.8]  # else it is constant, whatever the value
    return Example(site, False, title, {}, image, image, np.ones((4, 4), dtype=bool))


def test_a_site_with_bad_slices_is_named_once() -> None:
    shown = [example("A", "A, test subject 1", 0.0), example("A", "A, test subject 1, slice 7 of 20", 0.0)]
    later = [example("B", "B, test subject 1", 0.5), example("B", "B, test subject 1, slice 7 of 20", 1.0)]
    assert [fault.partition(": ")[0] for fault in faults_of([*shown, *later])] == [
        "A, test subject 1",
        "B, test subject 1, slice 7 of 20",
    ]
