"""Known misalignment: one source is moved and the others stay, to train with that and to measure what it costs.

`draw` holds all randomness and `apply` none, so a draw can be written down and replayed. Volumes are (D, H, W): D runs
superior, H anterior, W right. Moves are in mm and degrees along (right, anterior, superior), as spacings are. Fields
are in voxels along (D, H, W): `moved[p] = volume[p + field[p]]`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from agi_core.config.schema import MisalignConfig, MisalignKind
from agi_core.scenario import Scenario

FloatArray = npt.NDArray[np.float32]
Vector = tuple[float, float, float]
Spacing = tuple[float, float, float]
Perturb = Callable[[FloatArray, Spacing, np.random.Generator], FloatArray]

ELASTIC_SMOOTHNESS_MM = 16.0
"""SD of the Gaussian that smooths an elastic field: neighbouring structures move together, the two sides of a head do
not."""


@dataclass(frozen=True)
class Move:
    """The head is turned and scaled about the volume's centre, then shifted, then bent in the axial plane.

    Attributes:
        angle_deg: rotation vector: its direction is the axis, its length the angle.
        elastic_rms_mm: root mean square of each in-plane component of the elastic field drawn from `elastic_seed`.
    """

    shift_mm: Vector = (0.0, 0.0, 0.0)
    angle_deg: Vector = (0.0, 0.0, 0.0)
    scale: float = 1.0
    elastic_rms_mm: float = 0.0
    elastic_seed: int = 0


def draw(
    rng: np.random.Generator, kind: MisalignKind, size: float, *, spacing_mm: Spacing, up_to: bool = False
) -> Move:
    """A random move of exactly `size`, or, with `up_to`, of a size that is itself drawn from 0 to `size`.

    translation: whole voxels, along rows or columns; `up_to`: along both, each from -size to size.
    rotation: degrees about the superior axis. scale: 0.05 is 5 % larger or smaller. elastic: mm (RMS), in the plane.
    rigid: mm along a random direction and as many degrees about a random axis, in 3-D.
    """
    part = float(rng.uniform()) if up_to else 1.0
    signed = float(size * part * rng.choice((-1.0, 1.0)))
    match kind:
        case "translation" if up_to:
            right, anterior = rng.integers(-int(size), int(size), size=2, endpoint=True).tolist()
            return Move(shift_mm=(right * spacing_mm[0], anterior * spacing_mm[1], 0.0))
        case "translation":
            right, anterior = rng.permutation([signed, 0.0]).tolist()
            return Move(shift_mm=(right * spacing_mm[0], anterior * spacing_mm[1], 0.0))
        case "rotation":
            return Move(angle_deg=(0.0, 0.0, signed))
        case "scale":
            return Move(scale=1.0 + signed)
        case "elastic":
            return Move(elastic_rms_mm=size * part, elastic_seed=int(rng.integers(2**32)))
        case "rigid":
            return Move(shift_mm=_random_vector(rng, size * part), angle_deg=_random_vector(rng, size * part))


def _random_vector(rng: np.random.Generator, length: float) -> Vector:
    x, y, z = rng.standard_normal(3)
    unit = length / np.sqrt(x * x + y * y + z * z)
    return float(x * unit), float(y * unit), float(z * unit)


def field(move: Move, shape: tuple[int, ...], spacing_mm: Spacing) -> FloatArray:
    """Where each voxel of the moved volume comes from, relative to itself: (3, D, H, W), in voxels."""
    spacing = np.array(spacing_mm[::-1], dtype=np.float32)[:, None, None, None]
    middle = (np.array(shape, dtype=np.float32)[:, None, None, None] - 1) / 2
    here_mm = (np.indices(shape, dtype=np.float32) - middle) * spacing
    shift_mm = np.array(move.shift_mm[::-1], dtype=np.float32)[:, None, None, None]
    turn = Rotation.from_rotvec(move.angle_deg, degrees=True).as_matrix()
    back = (turn.T[::-1, ::-1] / move.scale).astype(np.float32)  # reversed, for the axes (D, H, W)
    source_mm = np.tensordot(back, here_mm - shift_mm, axes=1)
    result = np.asarray((source_mm - here_mm) / spacing, dtype=np.float32)
    if move.elastic_rms_mm:
        noise = np.random.default_rng(move.elastic_seed).standard_normal((2, *shape), dtype=np.float32)
        sigma = ELASTIC_SMOOTHNESS_MM / np.array(spacing_mm[::-1])
        for component, smooth in enumerate(ndimage.gaussian_filter(part, sigma, mode="wrap") for part in noise):
            rms_mm = np.sqrt(np.mean(smooth**2))
            result[component + 1] += smooth * (move.elastic_rms_mm / rms_mm) / spacing_mm[1 - component]
    return result


def apply(volume: FloatArray, move: Move, spacing_mm: Spacing) -> FloatArray:
    """The moved volume, float32 (D, H, W): linear interpolation, mirrored at the borders so that no zeros enter."""
    positions = np.indices(volume.shape, dtype=np.float32) + field(move, volume.shape, spacing_mm)
    moved: FloatArray = ndimage.map_coordinates(np.asarray(volume, np.float32), positions, order=1, mode="reflect")
    return moved


def perturbation(config: MisalignConfig, scenario: Scenario) -> Perturb | None:
    """What `training.misalign` does to each sample drawn in training: float32 (M, [D,] H, W) -> one source moved.

    None when it is off. Whole slices are moved before they are cropped, so that a crop has no border of its own.
    """
    if config.source is None:
        return None
    moved, kind, size = scenario.sources.index(config.source), config.kind, config.size

    def perturb(images: FloatArray, spacing_mm: Spacing, rng: np.random.Generator) -> FloatArray:
        move = draw(rng, kind, size, spacing_mm=spacing_mm, up_to=True)
        result = images.copy()
        slices = images[moved].reshape(-1, *images.shape[-2:])  # all slices of a patch, or the one slice
        result[moved] = apply(slices, move, spacing_mm).reshape(images.shape[1:])
        return result

    return perturb
