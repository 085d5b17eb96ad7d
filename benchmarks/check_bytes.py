"""How many bytes `--check` reads of the scans, beside how many there are.

python -m benchmarks.check_bytes
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agi_core.data.nifti import write_scan
from client.check.data import check_data
from client.site.file import CoordinatorAddress, DeployedSite, SiteData
from client.site.policy import Policy

TREES = {
    "100 subjects of 40 x 36 x 8 voxels": (100, (40, 36, 8)),
    "4 subjects of 256 x 256 x 100 voxels": (4, (256, 256, 100)),
}
MODALITIES = ("T1", "T2", "PD")


def scans(data_dir: Path, subjects: int, shape: tuple[int, int, int]) -> Iterator[Path]:
    """Write noisy balls as `IXI-T1/IXI100-Guys-1000-T1.nii.gz` and so on."""
    rng = np.random.default_rng(0)
    i, j, k = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    ball = i**2 + j**2 + k**2 < 0.6
    for number in range(100, 100 + subjects):
        for modality in MODALITIES:
            data = (600 * ball + np.abs(rng.normal(0, 12, shape)) + ball * rng.normal(0, 60, shape)).clip(0)
            path = data_dir / f"IXI-{modality}" / f"IXI{number}-Guys-{1000 + number}-{modality}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            write_scan(path, data.astype(np.int16), affine=np.diag([*(200 / np.array(shape)), 1.0]), descrip="")
            yield path


def bytes_read() -> int:
    """By this process so far, whether from the disk or from the system's memory."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def check(root: Path) -> int:
    """Check the scans in `root`/ixi; the bytes that were read."""
    site = DeployedSite(
        site="A",
        data=SiteData(dir=str(root / "ixi"), layout="ixi"),
        cache_dir=str(root / "cache"),
        state_dir=str(root / "state"),
        key_file="",
        coordinator=CoordinatorAddress("", ""),
        policy=Policy(minimum_subjects=1),
    )
    before = bytes_read()
    failed = [row.found for row in check_data(site, "T1,T2:PD") if row.state == "FAILED"]
    if failed:
        raise SystemExit(f"failed: {failed}")
    return bytes_read() - before


def main() -> None:
    """Check a small tree first, because the first one brings modules, which are read as well."""
    for what, (subjects, shape) in {"": (10, (40, 36, 8)), **TREES}.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "ixi").mkdir()
            size = sum(path.stat().st_size for path in list(scans(root / "ixi", subjects, shape)))
            read = check(root)
        if what:
            print(f"{what}: {size:,} bytes in {3 * subjects} files, {read:,} read, {read / size:.3f} times")


if __name__ == "__main__":
    main()
