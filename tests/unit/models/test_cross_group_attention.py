import torch

from agi_core.models.cross_group_attention import CrossGroupAttention, channel_shuffle, mean_over_space


def test_shuffle_deals_the_channels_of_each_group_to_all_groups() -> None:
    z = torch.arange(6)[None]  # groups (0, 1), (2, 3), (4, 5)
    assert channel_shuffle(z, 3).tolist() == [[0, 2, 4, 1, 3, 5]]
    assert channel_shuffle(z, 2).tolist() == [[0, 3, 1, 4, 2, 5]]


def test_shuffle_of_single_channel_groups_moves_nothing() -> None:
    z = torch.arange(3)[None]
    assert torch.equal(channel_shuffle(z, 3), z)


def test_attention_starts_at_one_half() -> None:
    assert torch.equal(CrossGroupAttention(8, groups=4)(torch.rand(2, 8)), torch.full((2, 8), 0.5))


def test_attention_by_hand() -> None:
    attention = CrossGroupAttention(4, groups=2)
    with torch.no_grad():
        attention.weight[0, 1] = torch.tensor([1.0, 0.0, 0.0, 2.0])  # channel 1 <- z_0 + 2 z_s,1
        attention.bias[3] = -1.0
    z = torch.tensor([[0.1, 0.2, 0.3, 0.4]])  # shuffled: 0.1, 0.3 | 0.2, 0.4
    expected = torch.sigmoid(torch.tensor([[0.0, 0.1 + 2 * 0.3, 0.0, -1.0]]))
    torch.testing.assert_close(attention(z), expected)


def test_mean_over_space_keeps_float32_where_bfloat16_would_not() -> None:
    x = torch.full((2, 3, 20, 30), 1.0, dtype=torch.bfloat16)
    x[:, :, 0, 0] = 2.0
    mean = mean_over_space(x, dtype=torch.float32)
    torch.testing.assert_close(mean, torch.full((2, 3), 1 + 1 / 600))
