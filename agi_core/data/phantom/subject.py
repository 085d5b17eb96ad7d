"""One subject of the built-in data: draw a person, scan it in every modality of its site."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agi_core.data.phantom.anatomy import (
    LATTICE_MM,
    Person,
    Pose,
    load_anatomy,
    mixture,
    new_person,
    smooth_noise,
)
from agi_core.data.phantom.scanner import (
    Grid,
    Layout,
    Scanner,
    at_voxels,
    coil_shading,
    detect,
    from_lattice,
    lattice_mm,
    sample,
    scanner_of,
)
from agi_core.data.phantom.tissue import GREY, WHITE, Sequence, Tissue, palette, signal, tissues_of
from agi_core.data.phantom.tumour import ENHANCING, TUMOUR_TISSUES, labels_of, new_tumour

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ScannedSubject:
    """Images of one person, all on the same grid, and the truth about them."""

    anatomy: str
    images: dict[str, NDArray[np.int16]]  # by modality, (I, J, K)
    labels: NDArray[np.uint8] | None  # (I, J, K), BraTS layout only
    poses: dict[str, Pose]  # by modality


@dataclass(frozen=True)
class _Visit:
    """A person in a scanner: everything that the scans of one subject share."""

    rng: np.random.Generator
    person: Person
    tissues: Mapping[int, Tissue]
    scanner: Scanner
    grid: Grid
    site_shading: FloatArray


def scan_subject(*, layout: Layout, site: str, index: int, seed: int, grid: Grid) -> ScannedSubject:
    """The `index`-th subject of a site; it does not depend on how many others there are.

    Its anatomy is drawn from the site's `mixture`. IXI: T2 and PD are one dual-echo scan and share the resting pose; T1
    has a pose of its own (SD 1.2 mm and 1 degree per axis). BraTS: all scans share one pose, show a tumour and are
    skull-stripped.
    """
    scanner = scanner_of(layout, site)
    site_key = zlib.crc32(f"{layout}/{site}".encode())
    rng = np.random.default_rng([seed, site_key, index])
    anatomies = mixture(site_key)
    anatomy = load_anatomy(str(rng.choice(list(anatomies), p=list(anatomies.values()))))
    visit = _Visit(
        rng=rng,
        person=new_person(rng, anatomy),
        tissues=tissues_of(rng, scanner.field_t),
        scanner=scanner,
        grid=grid,
        site_shading=coil_shading(np.random.default_rng([seed, site_key]), grid),
    )
    return _scan_ixi(visit) if layout == "ixi" else _scan_brats(visit)


def _scan_ixi(visit: _Visit) -> ScannedSubject:
    rotation_deg, shift_mm = visit.rng.standard_normal(3), 1.2 * visit.rng.standard_normal(3)
    poses = {"T1": Pose(tuple(rotation_deg), tuple(shift_mm)), "T2": Pose(), "PD": Pose()}
    points_mm = lattice_mm(visit.grid)
    coordinates = {pose: visit.person.to_anatomy(pose.apply(points_mm)) for pose in (poses["T1"], Pose())}
    images = {
        modality: _detect(visit, sequence, _healthy(visit, sequence, coordinates[poses[modality]]))
        for modality, sequence in visit.scanner.sequences.items()
    }
    return ScannedSubject(visit.person.anatomy.name, images, None, poses)


def _scan_brats(visit: _Visit) -> ScannedSubject:
    rng, person, grid = visit.rng, visit.person, visit.grid
    anatomy = person.anatomy
    points_mm = lattice_mm(grid)
    healthy = person.to_anatomy(points_mm)
    depth_mm = ndimage.map_coordinates(anatomy.brain_depth_mm, healthy / LATTICE_MM, order=1)
    depth_mm[ndimage.map_coordinates(anatomy.codes, healthy, order=0) < GREY] = 0  # no tumour starts in CSF
    within = np.s_[2:-3, 2:-3, 3:-4]  # the lattice reaches beyond the grid
    tumour = new_tumour(rng, points_mm[:, *within], depth_mm[within])
    coordinates = person.to_anatomy(tumour.before_growth(points_mm))

    brain = at_voxels(anatomy.brain, coordinates, grid) > 0.5
    white, tissue = (
        at_voxels(palette(tissues)[anatomy.codes], coordinates, grid) for tissues in ({WHITE: 1}, {GREY: 1, WHITE: 1})
    )
    fractions = tumour.fractions(
        np.stack(np.meshgrid(*grid.axes_mm(), indexing="ij"), dtype=np.float32),
        roughness=from_lattice(smooth_noise(rng, points_mm.shape[1:], 1.2), grid),
        white=white,
        tissue=tissue,
    )
    images = {}
    for modality, sequence in visit.scanner.sequences.items():
        clean = (1 - sum(fractions.values())) * _healthy(visit, sequence, coordinates)
        for label, lesion in TUMOUR_TISSUES.items():
            uptake_mmol_l = tumour.uptake_mmol_l if (modality, label) == ("t1c", ENHANCING) else 0.0
            clean += fractions[label] * signal(sequence, lesion, contrast_mmol_l=uptake_mmol_l)
        image = _detect(visit, sequence, clean)
        images[modality] = np.where(brain, np.maximum(image, 1), 0).astype(np.int16)
    labels = np.where(brain, labels_of(fractions), 0).astype(np.uint8)
    return ScannedSubject(anatomy.name, images, labels, dict.fromkeys(images, Pose()))


def _healthy(visit: _Visit, sequence: Sequence, coordinates: FloatArray) -> FloatArray:
    signals = palette({code: signal(sequence, tissue) for code, tissue in visit.tissues.items()})
    return sample(signals[visit.person.anatomy.codes], coordinates, visit.grid, sequence)


def _detect(visit: _Visit, sequence: Sequence, clean: FloatArray) -> NDArray[np.int16]:
    brain_signal = (signal(sequence, visit.tissues[GREY]) + signal(sequence, visit.tissues[WHITE])) / 2
    return detect(
        visit.rng,
        clean,
        grid=visit.grid,
        scanner=visit.scanner,
        site_shading=visit.site_shading,
        noise_sd=brain_signal / (visit.scanner.snr * sequence.relative_snr),
        unit=brain_signal,
    )
