"""Sites that calibrate together, against one that has all their subjects."""

import numpy as np
import pytest

from agi_core.errors import ProtocolError
from agi_core.pooled_errors import Told, layer_in, layers_of, with_layer, without_layer
from agi_core.protocol import pack, unpack
from agi_core.ridge import Statistics
from agi_core.uncertainty import Sample, fit, strength_of

SUBJECTS = {"A": 1, "B": 3, "C": 2}


def subject(seed: int) -> Sample:
    """Voxels whose error grows with the second feature."""
    rng = np.random.default_rng(seed)
    x = rng.random(500)
    return Sample(np.stack([np.ones(500), x]), np.abs(rng.normal(0, 0.02 + 0.08 * x)))


def test_each_subject_counts_alike_and_no_site_foresees_its_own_errors() -> None:
    samples = {site: [subject(10 * n + k) for k in range(size)] for n, (site, size) in enumerate(SUBJECTS.items())}
    told: dict[str, Told] = {
        site: (Statistics.mean([one.statistics for one in its]), len(its)) for site, its in samples.items()
    }
    common, of_others = layers_of(told)
    strength = strength_of([statistics for statistics, _ in told.values()])
    everybody = [one.statistics for its in samples.values() for one in its]
    np.testing.assert_allclose(common, fit(everybody, strength=strength), rtol=1e-9)
    for site in SUBJECTS:
        others = [one.statistics for other, its in samples.items() if other != site for one in its]
        np.testing.assert_allclose(of_others[site], fit(others, strength=strength), rtol=1e-9)


def test_a_layer_travels_beside_the_weights() -> None:
    weights = {"w": np.ones(2, np.float32), "prior": np.zeros(3)}
    model = pack(weights)
    packed = with_layer(model, np.arange(2.0))
    assert packed.arrays["float32"] is model.arrays["float32"]
    assert without_layer(packed).manifest == model.manifest
    assert {name: array.tolist() for name, array in unpack(without_layer(packed)).items()} == {
        "prior": [0, 0, 0],
        "w": [1, 1],
    }
    np.testing.assert_array_equal(layer_in(packed, features=2), [0, 1])
    for other in (model, with_layer(model, np.arange(3.0)), with_layer(model, np.array([np.nan, 1.0]))):
        with pytest.raises(ProtocolError, match="no layer of 2 numbers"):
            layer_in(other, features=2)
