"""Tissues of the built-in data: the code of a voxel, the T1, T2 and water content behind it, and its MR signal.

An anatomy has one byte per voxel, its code: a position on one of two paths, AIR (or bone) - SOFT - FAT outside of the
brain's cavity and CSF - GREY - WHITE inside. A code between two names is a partial volume of both, and its signal is a
linear mixture of theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

AIR, SOFT, FAT = 0, 8, 16
CSF, GREY, WHITE = 24, 40, 52
_PATH = (AIR, SOFT, FAT, CSF, GREY, WHITE)


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms, water content relative to pure water, and T2*/T2 in a gradient echo."""

    t1_ms: float
    t2_ms: float
    water: float
    t2_star_ratio: float = 0.6


@dataclass(frozen=True)
class Sequence:
    """How one modality is acquired: times in ms, slice thickness and in-plane resolution (FWHM) in mm."""

    kind: Literal["SE", "MPRAGE", "SPGR", "FLAIR"]
    tr_ms: float
    te_ms: float
    ti_ms: float = 0.0
    flip_deg: float = 90.0
    slice_mm: float = 1.0
    in_plane_mm: float = 1.0
    relative_snr: float = 1.0  # to the SNR of the site


def brain_water(t1_ms: float) -> float:
    """Water content of brain tissue from its T1 at 3 T (Volz et al. 2012)."""
    return 1 / (0.858 + 522 / t1_ms)


# At 3 T. Magnetisation transfer takes 5 % of the signal of grey matter and 12 % of that of white matter. With these T2
# the contrast is about that of a real IXI slice. Fat is as bright as in fast spin echoes; gradient echoes dephase it.
TISSUES_3T: Mapping[int, Tissue] = {
    AIR: Tissue(1.0, 1.0, 0.0),
    SOFT: Tissue(1200.0, 42.0, 0.75),
    FAT: Tissue(380.0, 105.0, 0.9, t2_star_ratio=0.035),
    CSF: Tissue(4000.0, 1500.0, 1.0),
    GREY: Tissue(1400.0, 91.0, 0.95 * brain_water(1400.0)),
    WHITE: Tissue(850.0, 78.0, 0.88 * brain_water(850.0)),
}


def tissues_of(rng: np.random.Generator, field_t: float) -> dict[int, Tissue]:
    """One person's tissues at a field strength: T1 and T2 vary by 4 % (SD) per tissue; below 3 T, T1 is shorter."""
    tissues = {}
    for code, tissue in TISSUES_3T.items():
        t1_factor, t2_factor = np.exp(0.04 * rng.standard_normal(2))
        if code != CSF:
            t1_factor *= (field_t / 3) ** (1 / 3)
        tissues[code] = replace(tissue, t1_ms=tissue.t1_ms * t1_factor, t2_ms=tissue.t2_ms * t2_factor)
    return tissues


def signal(sequence: Sequence, tissue: Tissue, *, contrast_mmol_l: float = 0.0) -> float:
    """Magnitude of the MR signal, relative to fully relaxed water, of a tissue with so much gadolinium."""
    t1 = 1 / (1 / tissue.t1_ms + 4.5e-3 * contrast_mmol_l)  # relaxivity 4.5 per s and mM
    t2_star = tissue.t2_star_ratio * tissue.t2_ms
    tr, te, ti = sequence.tr_ms, sequence.te_ms, sequence.ti_ms
    relaxed = np.exp(-tr / t1)
    if sequence.kind == "SE":
        weight = (1 - relaxed) * np.exp(-te / tissue.t2_ms)
    elif sequence.kind == "MPRAGE":
        weight = abs(1 - 2 * np.exp(-ti / t1) / (1 + relaxed)) * np.exp(-te / t2_star)
    elif sequence.kind == "SPGR":
        flip = np.deg2rad(sequence.flip_deg)
        weight = np.sin(flip) * (1 - relaxed) / (1 - np.cos(flip) * relaxed) * np.exp(-te / t2_star)
    else:
        weight = abs(1 - 2 * np.exp(-ti / t1) + relaxed) * np.exp(-te / tissue.t2_ms)
    return float(tissue.water * weight)


def palette(values: Mapping[int, float]) -> FloatArray:
    """A look-up table for `codes`: the value of every code, from those of the named tissues (0 where missing)."""
    table = np.interp(np.arange(WHITE + 1), _PATH, [values.get(code, 0.0) for code in _PATH])
    table[FAT + 1 : CSF] = 0  # unused codes between the two paths
    return table.astype(np.float32)
