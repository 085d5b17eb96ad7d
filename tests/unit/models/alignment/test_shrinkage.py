import torch

from agi_core.models.alignment.shrinkage import shrunk


def test_a_motion_is_shrunk_by_hand_in_the_plane_and_through_it_apart() -> None:
    voxels = (3, 20, 40)
    motion = torch.tensor([0.3, 0.3, 0.4]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 20, 40)  # slices, rows, columns
    normalised = 2 * motion / torch.tensor(voxels).reshape(1, 3, 1, 1, 1)
    kept = shrunk(normalised, voxels=voxels, neighbours=1, noise_vox=0.25) / normalised
    through, plane = 1 - 0.2**4 / 0.3**4, 1 - 0.25**4 / 0.5**4
    torch.testing.assert_close(kept[0, :, 0, 0, 0], torch.tensor([through, plane, plane]))
    assert shrunk(normalised / 3, voxels=voxels, neighbours=1, noise_vox=0.25).abs().max() == 0
