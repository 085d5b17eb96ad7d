"""Tissues, MR signal, scanners and deformation of the built-in data, against values by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from agi_core.data.phantom.anatomy import ANATOMIES, HEAD_CENTRE_MM, Person, Pose, load_anatomy, mixture, new_person
from agi_core.data.phantom.scanner import (
    SCANNERS,
    SLICES,
    Grid,
    Layout,
    Scanner,
    at_voxels,
    coil_shading,
    detect,
    lattice_mm,
    sample,
    scanner_of,
)
from agi_core.data.phantom.tissue import (
    AIR,
    CSF,
    FAT,
    GREY,
    SOFT,
    TISSUES_3T,
    WHITE,
    Sequence,
    Tissue,
    palette,
    signal,
    tissues_of,
)
from agi_core.data.phantom.tumour import CORE, ENHANCING, OEDEMA, TUMOUR_TISSUES, Tumour, labels_of

WATER = Tissue(1000.0, 100.0, 1.0)


def test_signal_equations_by_hand() -> None:
    assert signal(Sequence("SE", 1e6, 100), WATER) == pytest.approx(1 / math.e)
    assert signal(Sequence("SE", 1000 * math.log(2), 0), WATER) == pytest.approx(0.5)
    null_ms = 1000 * math.log(2 / (1 + math.exp(-2)))
    assert signal(Sequence("MPRAGE", 2000, 0, null_ms), WATER) == pytest.approx(0, abs=1e-9)
    assert signal(Sequence("FLAIR", 2000, 0, null_ms), WATER) == pytest.approx(0, abs=1e-9)
    assert signal(Sequence("MPRAGE", 1e6, 60, 1e6), WATER) == pytest.approx(1 / math.e)  # T2* is 0.6 of T2
    assert signal(Sequence("SPGR", 1000, 0, flip_deg=90), WATER) == pytest.approx(1 - 1 / math.e)


def test_spoiled_gradient_echo_peaks_at_the_ernst_angle() -> None:
    ernst_deg = math.degrees(math.acos(math.exp(-17 / 1000)))
    signals = [signal(Sequence("SPGR", 17, 4, flip_deg=ernst_deg + step), WATER) for step in (-1, 0, 1)]
    assert max(signals) == signals[1]


def test_gadolinium_shortens_t1() -> None:
    # 1 / T1' = 1 / 1 s + 4.5 / s = 5.5 / s
    shortened = signal(Sequence("SE", 100, 0), WATER, contrast_mmol_l=1.0)
    assert shortened == pytest.approx(1 - math.exp(-0.1 * 5.5))


@pytest.mark.parametrize("site", SCANNERS["ixi"])
def test_ixi_contrasts(site: str) -> None:
    scanner = scanner_of("ixi", site)
    tissues = tissues_of(np.random.default_rng(0), scanner.field_t)
    by_modality = {
        modality: {code: signal(sequence, tissues[code]) for code in (SOFT, FAT, CSF, GREY, WHITE)}
        for modality, sequence in scanner.sequences.items()
    }
    t1, t2, pd = (by_modality[modality] for modality in ("T1", "T2", "PD"))
    assert t1[WHITE] > t1[GREY] > t1[CSF]
    assert t2[CSF] > 2 * t2[GREY] > 2 * t2[WHITE] > 2 * t2[SOFT]
    assert 1.3 * pd[GREY] > pd[CSF] > 0.95 * pd[GREY]
    assert pd[GREY] > pd[WHITE]
    assert t1[FAT] > t1[GREY]


@pytest.mark.parametrize("site", SCANNERS["brats"])
def test_brats_contrasts(site: str) -> None:
    scanner = scanner_of("brats", site)
    tissues = tissues_of(np.random.default_rng(0), scanner.field_t)
    t2f, t1c = scanner.sequences["t2f"], scanner.sequences["t1c"]
    flair = {code: signal(t2f, tissues[code]) for code in (CSF, GREY, WHITE)}
    oedema = signal(t2f, TUMOUR_TISSUES[OEDEMA])
    assert oedema > 1.3 * flair[GREY] > 1.3 * flair[WHITE] > 3 * flair[CSF]
    rim = signal(t1c, TUMOUR_TISSUES[ENHANCING], contrast_mmol_l=0.5)
    assert rim > signal(t1c, tissues[WHITE]) > signal(t1c, TUMOUR_TISSUES[CORE])


def test_tissues_vary_between_people_and_t1_is_shorter_below_3_tesla() -> None:
    people = [tissues_of(np.random.default_rng(seed), 1.5)[WHITE].t1_ms for seed in range(200)]
    expected = TISSUES_3T[WHITE].t1_ms * 0.5 ** (1 / 3)
    assert np.mean(people) == pytest.approx(expected, rel=0.02)
    assert np.std(people) == pytest.approx(0.04 * expected, rel=0.2)


def test_palette_mixes_linearly_within_a_path() -> None:
    table = palette({SOFT: 2.0, FAT: 4.0, CSF: 10.0, GREY: 6.0, WHITE: 5.0})
    assert table[[AIR, SOFT, FAT, CSF, GREY, WHITE]].tolist() == [0, 2, 4, 10, 6, 5]
    assert table[(AIR + SOFT) // 2] == 1
    assert table[(CSF + GREY) // 2] == 8
    assert table[FAT + 1 : CSF].tolist() == [0] * (CSF - FAT - 1)


@pytest.mark.parametrize("name", ANATOMIES)
def test_anatomies_hold_a_head(name: str) -> None:
    anatomy = load_anatomy(name)
    inside = anatomy.codes[anatomy.brain > 0]
    assert anatomy.codes.max() == WHITE
    assert np.mean(inside >= CSF) > 0.99
    assert 1.4e6 < np.sum(anatomy.brain) < 2.1e6  # mm3
    assert 0.2 < np.mean(inside > (GREY + WHITE) / 2) < 0.6
    assert np.isin(np.arange(FAT + 1, CSF), anatomy.codes).sum() == 0


def test_every_site_has_a_mixture_of_its_own() -> None:
    mixtures = [mixture(site_key) for site_key in range(8)]
    for shares in mixtures:
        assert sorted(shares) == sorted(ANATOMIES)
        assert sum(shares.values()) == pytest.approx(1)
    assert len({tuple(shares) for shares in mixtures}) > 4
    assert {next(iter(shares)) for shares in mixtures} > {"colin27"}
    assert mixture(0) == mixtures[0]


@pytest.mark.parametrize("layout", ["ixi", "brats"])
def test_an_unknown_site_gets_the_scanner_that_its_name_decides(layout: Layout) -> None:
    assert scanner_of(layout, "Leeds") == scanner_of(layout, "Leeds")
    assert scanner_of(layout, "Leeds") != scanner_of(layout, "Turin")
    assert scanner_of(layout, "Leeds").sequences.keys() == next(iter(SCANNERS[layout].values())).sequences.keys()


@given(
    rotation_deg=st.tuples(*[st.floats(-20, 20)] * 3),
    shift_mm=st.tuples(*[st.floats(-10, 10)] * 3),
)
def test_pose_keeps_distances_and_shifts_the_centre(
    rotation_deg: tuple[float, float, float], shift_mm: tuple[float, float, float]
) -> None:
    centre = HEAD_CENTRE_MM.astype(np.float32)
    points_mm = np.stack([centre, centre + np.array([30, 40, 0])], axis=1).astype(np.float32)
    moved = Pose(rotation_deg, shift_mm).apply(points_mm)
    np.testing.assert_allclose(moved[:, 0], centre + shift_mm, atol=1e-4)
    assert np.linalg.norm(moved[:, 1] - moved[:, 0]) == pytest.approx(50, abs=1e-3)


def test_rotation_about_z_turns_right_to_anterior() -> None:
    moved = Pose((0, 0, 90)).apply((HEAD_CENTRE_MM + np.array([10, 0, 0])).astype(np.float32).reshape(3, 1))
    np.testing.assert_allclose(moved[:, 0] - HEAD_CENTRE_MM, (0, 10, 0), atol=1e-4)


def test_a_pose_moves_what_is_seen_in_the_opposite_direction() -> None:
    anatomy = load_anatomy("colin27")
    identity = Person(anatomy, np.eye(3), np.zeros((3, *anatomy.softness.shape), np.float32), flipped=False)
    blob_mm = np.array([31.0, -40.0, 20.0])
    blob = np.zeros(anatomy.codes.shape, np.float32)
    blob[tuple((blob_mm - anatomy.origin_mm).astype(int))] = 1
    blob = ndimage.gaussian_filter(blob, 4)
    pose = Pose((0, 0, 30), (4, -3, 2))
    grid = Grid((96, 96, 60), (2.0, 2.0, 2.0))
    seen = at_voxels(blob, identity.to_anatomy(pose.apply(lattice_mm(grid))), grid)
    index = ndimage.center_of_mass(seen)
    found_mm = grid.affine[:3, :3] @ index + grid.affine[:3, 3]
    np.testing.assert_allclose(pose.apply(found_mm.astype(np.float32).reshape(3, 1))[:, 0], blob_mm, atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_deformation_does_not_fold(seed: int) -> None:
    anatomy = load_anatomy(ANATOMIES[seed])
    person = new_person(np.random.default_rng(seed), anatomy)
    step_mm = 4.0
    axes = [np.arange(-80, 80, step_mm), np.arange(-110, 80, step_mm), np.arange(-50, 80, step_mm)]
    points_mm = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    jacobian = np.stack([np.gradient(person.to_anatomy(points_mm), step_mm, axis=axis) for axis in (1, 2, 3)], axis=1)
    volume = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    volume = -volume if person.flipped else volume
    assert np.quantile(volume, 0.0001) > 0
    assert np.median(volume) == pytest.approx(1, abs=0.35)


def test_slice_thickness_blurs_across_slices_and_keeps_the_mean() -> None:
    volume = np.zeros((181, 217, 181), np.float32)
    volume[:, :, :85] = 1  # an edge at 13.5 mm
    anatomy = load_anatomy("colin27")
    identity = Person(anatomy, np.eye(3), np.zeros((3, *anatomy.softness.shape), np.float32), flipped=False)
    grid = Grid((8, 8, 21), (2.0, 2.0, 1.0))
    coordinates = identity.to_anatomy(lattice_mm(grid))
    thin, thick = (
        sample(volume, coordinates, grid, Sequence("SE", 1, 1, slice_mm=slice_mm))[4, 4] for slice_mm in (0.1, 6.0)
    )
    assert np.count_nonzero((thin > 0.01) & (thin < 0.99)) <= 2
    assert np.count_nonzero((thick > 0.01) & (thick < 0.99)) >= 4
    assert thin.sum() == pytest.approx(thick.sum(), abs=0.1)


def test_noise_is_rician_and_shading_smooth() -> None:
    grid = Grid((64, 64, 8), (2.0, 2.0, 5.0))
    rng = np.random.default_rng(0)
    scanner = Scanner(3.0, 10.0, 0.0, (1.0, 1.0), {})
    clean = np.zeros(grid.shape, np.float32)
    clean[32:] = 1
    image = detect(rng, clean, grid=grid, scanner=scanner, site_shading=coil_shading(rng, grid), noise_sd=0.1, unit=1.0)
    assert image.dtype == np.int16
    assert image[:32].mean() == pytest.approx(400 * 0.1 * math.sqrt(math.pi / 2), rel=0.02)  # Rayleigh
    assert image[32:].std() == pytest.approx(40, rel=0.03)
    shading = coil_shading(rng, SLICES)
    assert shading.std() == pytest.approx(1, abs=1e-3)
    assert max(np.abs(np.diff(shading, axis=axis)).max() for axis in (0, 1)) < 0.25


def test_tumour_by_hand() -> None:
    tumour = Tumour(
        centre_mm=np.zeros(3, np.float32),
        stretch=np.ones(3, np.float32),
        core_mm=5.5,
        rim_mm=4,
        oedema_mm=10,
        mass_effect_mm=3,
        uptake_mmol_l=0.5,
    )
    x_mm = np.arange(0, 30, dtype=np.float32)
    points_mm = np.stack([x_mm, 0 * x_mm, 0 * x_mm]).reshape(3, 30, 1, 1)
    zeros, ones = np.zeros((30, 1, 1), np.float32), np.ones((30, 1, 1), np.float32)
    in_white = labels_of(tumour.fractions(points_mm, roughness=zeros, white=ones, tissue=ones))
    expected = [CORE] * 6 + [ENHANCING] * 4 + [OEDEMA] * 10 + [0] * 10  # borders at 5.5, 9.5 and 19.5 mm
    assert in_white.ravel().tolist() == expected
    in_csf = labels_of(tumour.fractions(points_mm, roughness=zeros, white=zeros, tissue=zeros))
    assert in_csf.ravel().tolist() == expected[:10] + [0] * 20

    before = replace(tumour, core_mm=5).before_growth(points_mm)[0].ravel()
    assert before[0] == 0
    assert before[9] == pytest.approx(9 - 3, abs=1e-4)  # at the rim: the full mass effect
    assert before[24] == pytest.approx(24 - 3 / math.e, abs=1e-4)  # 15 mm further out: 1/e of it
    assert np.all(np.diff(before) > 0)
