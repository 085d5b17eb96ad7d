import torch
from torch import Tensor, nn

from agi_core.prediction import middle, predict_volume, predict_whole, slabs, through_windows
from tests.support.predictors import Made


def test_the_network_sees_the_box_alone_and_zeros_stay_zero() -> None:
    sources = torch.zeros(2, 2, 10, 12)
    sources[:, :, 4:7, 3:8] = torch.rand(2, 2, 3, 5) + 0.1
    sources[0, 0, 5, 5] = 0  # one source is enough
    sources[0, :, 4, 3] = 0  # stripped within the box
    seen: list[Tensor] = []

    def predict(x: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :1] + 5  # above 1 everywhere: clipped

    prediction = predict_whole(Made(predict), sources, box=(slice(4, 7), slice(3, 8)))
    torch.testing.assert_close(seen[0], sources[:, :, 4:7, 3:8])
    expected = torch.zeros(2, 1, 10, 12)
    expected[:, :, 4:7, 3:8] = 1
    expected[0, 0, 4, 3] = 0
    torch.testing.assert_close(prediction, expected)


def test_slabs_are_predicted_in_their_middle() -> None:
    volume = torch.arange(1.0, 4)[:, None, None, None].expand(3, 2, 4, 5) / 10
    thick = slabs(volume, range(3), 2)
    thick[0, :, 2, 1, 1] = 0  # its neighbours are not zero there
    box = (slice(1, 3), slice(0, 5))
    prediction = predict_whole(Made(lambda x: x[:, :1, 2] + 0.5, neighbours=2), thick, box=box)
    expected = torch.zeros(3, 1, 4, 5)
    expected[:, :, 1:3] = volume[:, :1, 1:3] + 0.5
    expected[0, 0, 1, 1] = 0
    torch.testing.assert_close(prediction, expected)


def test_a_volume_is_predicted_in_batches_unless_it_must_be_seen_whole() -> None:
    volume, box, seen = torch.rand(7, 2, 4, 5) + 0.1, (slice(0, 4), slice(0, 5)), []

    def predict(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x[:, :1]

    for volumetric, batches in ((False, [3, 3, 1]), (True, [7])):
        prediction = predict_volume(Made(predict, volumetric=volumetric), volume, box=box, batch_size=3)
        torch.testing.assert_close(prediction, volume[:, :1].clamp(0, 1))
        assert seen == batches
        seen.clear()


# VOLUMES


def test_windows_of_one_size_cover_a_larger_volume() -> None:
    """A 1-tap convolution sees no window, so blending must give back what it makes of the whole volume."""
    conv, seen = nn.Conv3d(2, 1, 1), []

    def network(window: Tensor) -> Tensor:
        seen.append(tuple(window.shape))
        result: Tensor = conv(window).detach()
        return result

    sources = torch.rand(11, 2, 21, 18) + 0.1
    prediction = through_windows(network, sources, crop=(8, 12, 4))
    torch.testing.assert_close(prediction, conv(sources.transpose(0, 1)).detach().transpose(0, 1))
    assert set(seen) == {(1, 2, 4, 8, 12)}
    assert len(seen) == 4 * 4 * 2  # steps of 3, 6 and 9 over 11 slices, 21 rows and 18 columns


def test_an_empty_volume_is_zero_in_all_channels() -> None:
    prediction = through_windows(
        lambda window: 1 + window.repeat(1, 2, 1, 1, 1), torch.zeros(5, 2, 9, 9), crop=(8, 8, 4)
    )
    assert torch.equal(prediction, torch.zeros(5, 4, 9, 9))


def test_slabs_are_mirrored_at_the_ends() -> None:
    volume = torch.arange(1.0, 4)[:, None, None, None].expand(3, 2, 4, 5) / 10
    assert torch.equal(slabs(volume, [2, 0], 0), volume[[2, 0]])
    thick = slabs(volume, range(3), 2)
    assert thick.shape == (3, 2, 5, 4, 5)
    numbers = (10 * thick[:, 1, :, 0, 0]).round().int().tolist()
    assert numbers == [[3, 2, 1, 2, 3], [2, 1, 2, 3, 2], [1, 2, 3, 2, 1]]
    torch.testing.assert_close(middle(thick), volume)
    assert middle(volume) is volume
