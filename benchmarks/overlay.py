"""A picture of a synthesised volume over its sources, placed by their affines alone, as a viewer would.

    python benchmarks/overlay.py --volume T1=t1.nii.gz --volume T2=t2.nii.gz --synthetic pd.nii.gz --out overlay.png

Three planes through the middle of the synthetic volume: each source, the synthetic volume, and that volume with
the edges of the first source in red. Volumes are shown in RAS, radiological convention.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.intensity import scale_intensity
from agi_core.data.nifti import read_volume
from agi_core.data.preprocess import resample
from agi_core.host.command_line import named_path


def main() -> None:
    parser = argparse.ArgumentParser(description="Overlay of a synthesised volume and its sources.")
    parser.add_argument(
        "--volume",
        type=named_path("NAME=FILE, for example T1=scan.nii.gz"),
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a source or the target",
    )
    parser.add_argument("--synthetic", type=Path, required=True, help="what `synthesize` wrote")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    arguments = parser.parse_args()
    synthetic = read_volume(arguments.synthetic)
    panels = {}
    for name, path in arguments.volume:
        volume = read_volume(path)
        panels[name] = resample(scale_intensity(volume.data)[0], volume.grid, synthetic.grid)
    edges = ndimage.gaussian_gradient_magnitude(next(iter(panels.values())), 1.0)
    panels["synthetic"] = synthetic.data

    extents_mm = np.array(synthetic.data.shape) * synthetic.grid.spacing_mm
    heights = [extents_mm[1], extents_mm[2], extents_mm[2]]  # of the axial, coronal and sagittal plane
    columns = len(panels) + 1
    size = (2.4 * columns, 2.4 * sum(heights) / extents_mm[:2].max() + 0.3)
    figure, axes = plt.subplots(3, columns, figsize=size, facecolor="black", height_ratios=heights)
    middle = [size // 2 for size in synthetic.data.shape]
    for row, axis in zip(axes, (2, 1, 0), strict=True):
        in_plane = [spacing for k, spacing in enumerate(synthetic.grid.spacing_mm) if k != axis]
        for ax, (name, data) in zip(
            row, [*panels.items(), ("edges of " + next(iter(panels)), synthetic.data)], strict=True
        ):
            ax.imshow(
                plane(data, axis, middle), cmap="gray", vmin=0, vmax=1, origin="lower", aspect=in_plane[1] / in_plane[0]
            )
            if name.startswith("edges"):
                edge = plane(edges, axis, middle)
                strong = np.ma.masked_less(edge, np.percentile(edge, 90))
                ax.imshow(strong, cmap="autumn", alpha=0.6, origin="lower", aspect=in_plane[1] / in_plane[0])
            ax.set_axis_off()
            if axis == 2:
                ax.set_title(name, color="white", fontsize=10)
    figure.tight_layout(pad=0.3)
    figure.savefig(arguments.out, dpi=90, facecolor="black")


def plane(data: NDArray[np.float32], axis: int, middle: list[int]) -> NDArray[np.float32]:
    """The middle plane across `axis`, rows upwards; the patient's right is on the left."""
    image: NDArray[np.float32] = np.take(data, middle[axis], axis=axis).T
    return image[:, ::-1] if axis != 0 else image


if __name__ == "__main__":
    main()
