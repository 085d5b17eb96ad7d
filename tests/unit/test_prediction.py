import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agi_core.models.agi_net import build_model
from agi_core.models.model_config import ModelConfig
from agi_core.prediction import SlidingWindow, around, predict_whole, predictor, slabs, source_box


def test_the_box_holds_every_non_zero_source_voxel() -> None:
    sources = np.zeros((3, 2, 10, 12), np.float32)
    sources[0, 1, 4, 7] = sources[2, 0, 6, 3] = 0.5
    assert source_box(sources) == (slice(4, 7), slice(3, 8))
    assert source_box(np.zeros((1, 2, 10, 12))) == (slice(0, 10), slice(0, 12))
    assert source_box(np.ones((1, 2, 10, 12))) == (slice(0, 10), slice(0, 12))


def test_the_network_sees_the_box_alone_and_zeros_stay_zero() -> None:
    sources = torch.zeros(2, 2, 10, 12)
    sources[:, :, 4:7, 3:8] = torch.rand(2, 2, 3, 5) + 0.1
    sources[0, 0, 5, 5] = 0  # one source is enough
    sources[0, :, 4, 3] = 0  # stripped within the box
    seen: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :1] + 5  # above 1 everywhere: clipped

    prediction = predict_whole(predict, sources, box=(slice(4, 7), slice(3, 8)))
    torch.testing.assert_close(seen[0], sources[:, :, 4:7, 3:8])
    expected = torch.zeros(2, 1, 10, 12)
    expected[:, :, 4:7, 3:8] = 1
    expected[0, 0, 4, 3] = 0
    torch.testing.assert_close(prediction, expected)


def test_neighbours_stay_within_the_volume() -> None:
    assert around(0, depth=1, neighbours=1) == [0, 0, 0]
    assert around(1, depth=2, neighbours=2) == [1, 0, 1, 0, 0]
    assert around(2, depth=9, neighbours=1) == [1, 2, 3]


def test_slabs_are_mirrored_at_the_ends_and_predicted_in_their_middle() -> None:
    volume = torch.arange(1.0, 4)[:, None, None, None].expand(3, 2, 4, 5) / 10
    assert slabs(volume, neighbours=0) is volume
    thick = slabs(volume, neighbours=2)
    assert thick.shape == (3, 2, 5, 4, 5)
    numbers = (10 * thick[:, 1, :, 0, 0]).round().int().tolist()
    assert numbers == [[3, 2, 1, 2, 3], [2, 1, 2, 3, 2], [1, 2, 3, 2, 1]]
    thick[0, :, 2, 1, 1] = 0  # its neighbours are not zero there
    box = (slice(1, 3), slice(0, 5))
    prediction = predict_whole(lambda x: x[:, :1, 2] + 0.5, thick, box=box)
    expected = torch.zeros(3, 1, 4, 5)
    expected[:, :, 1:3] = volume[:, :1, 1:3] + 0.5
    expected[0, 0, 1, 1] = 0
    torch.testing.assert_close(prediction, expected)


def test_the_predictor_pads_to_the_multiple_and_cuts_back() -> None:
    shapes: list[tuple[int, ...]] = []

    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            shapes.append(tuple(x.shape))
            assert x[:, :, 13:].abs().sum() == x[..., 18:].abs().sum() == 0
            y: Tensor = self.conv(x)
            return y

    model = Recorder()
    x = torch.rand(3, 2, 13, 18)
    prediction = predictor(model, multiple=8)(x)
    assert shapes == [(3, 2, 16, 24)]
    torch.testing.assert_close(prediction, model.conv(x).detach())


def test_the_predictor_uses_evaluation_mode_and_no_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout(0.9)).train()
    x = torch.rand(1, 2, 8, 8)
    prediction = predictor(model, multiple=1)(x)
    assert not prediction.requires_grad
    torch.testing.assert_close(prediction, model[0](x).detach())


# VOLUMES


def test_a_window_that_covers_the_volume_is_one_direct_pass() -> None:
    """Centred in zeros, without the empty slices at both ends."""
    model = build_model(ModelConfig(dims=3, widths=[4, 8]), sources=2)
    sources = torch.zeros(9, 2, 10, 13)  # D, M, H, W
    sources[2:8] = torch.rand(6, 2, 10, 13)
    prediction = predictor(model, multiple=2, crop=(16, 16, 8))(sources)
    padded = F.pad(sources[2:8].transpose(0, 1)[None], (1, 2, 3, 3, 1, 1))
    with torch.inference_mode():
        expected = model(padded)[0, 0, 1:7, 3:13, 1:14]
    torch.testing.assert_close(prediction[2:8, 0], expected)
    assert not prediction[[0, 1, 8]].any()


def test_windows_of_one_size_cover_a_larger_volume() -> None:
    """A 1-tap convolution sees no window, so blending must give back what it makes of the whole volume."""
    conv, seen = nn.Conv3d(2, 1, 1), []

    def network(window: Tensor) -> Tensor:
        seen.append(tuple(window.shape))
        result: Tensor = conv(window).detach()
        return result

    sources = torch.rand(11, 2, 21, 18) + 0.1
    prediction = SlidingWindow(network, (8, 12, 4))(sources)
    torch.testing.assert_close(prediction, conv(sources.transpose(0, 1)).detach().transpose(0, 1))
    assert set(seen) == {(1, 2, 4, 8, 12)}
    assert len(seen) == 4 * 4 * 2  # steps of 3, 6 and 9 over 11 slices, 21 rows and 18 columns


def test_an_empty_volume_needs_no_network() -> None:
    def network(window: Tensor) -> Tensor:
        raise AssertionError(window.shape)

    assert not SlidingWindow(network, (8, 8, 4))(torch.zeros(5, 2, 9, 9)).any()
