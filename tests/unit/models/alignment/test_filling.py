import torch

from agi_core.models.alignment.filling import filled_in


def test_what_was_not_imaged_becomes_a_mean_over_voxels_as_bright() -> None:
    reference = torch.tensor([[[0.0, 0.5, 0.505, 0.5, 1.0, 0.7]]])
    image = torch.tensor([[[0.3, 0.2, 0.4, 9.0, 0.8, 9.0]]])
    imaged = torch.tensor([[[True, True, True, False, True, False]]])
    wanted = torch.tensor([[[0.3, 0.2, 0.4, 0.3, 0.8, 0.0]]])  # no imaged voxel is as bright as the last one
    torch.testing.assert_close(filled_in(image, reference, imaged=imaged), wanted)
