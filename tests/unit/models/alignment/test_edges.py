import pytest
import torch

from agi_core.models.alignment.edges import descriptor, pooled
from tests.support.smooth_images import texture


def test_edges_do_not_depend_on_which_side_is_brighter() -> None:
    """An offset and a factor, also a negative one, leave E as it is; a flat image has none."""
    image = texture(40, 40)
    torch.testing.assert_close(descriptor(0.3 - 0.2 * image), descriptor(image), rtol=1e-7, atol=1e-7)
    assert not descriptor(torch.full((1, 1, 8, 8), 0.5)).any()


@pytest.mark.parametrize(
    ("size", "stride", "expected"), [(128, 8, 16), (96, 8, 12), (95, 8, 23), (20, 8, 20), (3, 2, 3)]
)
def test_short_axes_are_pooled_less(size: int, stride: int, expected: int) -> None:
    assert pooled(torch.zeros(1, 1, size, 200), stride).shape[2:] == (expected, 200 // stride)
