"""The rows of the misalignment benchmark: what is trained, and on which data."""

from dataclasses import dataclass

NOT_ALIGNED = ("model.alignment=none", "model.neighbours=0")
PLAIN, CAGR = ("model.conv=plain", *NOT_ALIGNED), ("model.conv=cagr", *NOT_ALIGNED)
ALIGN = ("model.alignment=dense", "model.neighbours=1")


@dataclass(frozen=True)
class Variant:
    """One row: settings on top of `SETTINGS`, the data (native, rigid = registered first, twin = acquired in one pose)
    and whether the source is moved in training."""

    settings: tuple[str, ...]
    data: str = "native"
    moved: bool = True


MAIN_VARIANTS = {
    "plain": Variant(PLAIN),
    "plain, equal cost": Variant((*PLAIN, "model.widths=[16,48,64]")),
    "pix2pix": Variant((*PLAIN, "training.adversarial=true")),
    "AGI-Net (CAGR)": Variant(CAGR),
    "aligned": Variant((*PLAIN, *ALIGN)),
    "registered, plain": Variant(PLAIN, data="rigid", moved=False),
    "registered, aligned": Variant((*PLAIN, *ALIGN), data="rigid", moved=False),
    "twin, plain": Variant(PLAIN, data="twin", moved=False),
    "twin, aligned": Variant((*PLAIN, *ALIGN), data="twin", moved=False),
    "trained still, plain": Variant(PLAIN, moved=False),
    "trained still, aligned": Variant((*PLAIN, *ALIGN), moved=False),
}
ABLATIONS = {
    "aligned, CAGR": Variant((*CAGR, *ALIGN)),
    "attention only": Variant((*CAGR, "model.rolling=false")),
    "rolling only": Variant((*CAGR, "model.attention=false")),
    "aligned, attention only": Variant((*CAGR, *ALIGN, "model.rolling=false")),
    "aligned, rolling only": Variant((*CAGR, *ALIGN, "model.attention=false")),
    "CAGR, no shuffle": Variant((*CAGR, "model.shuffle=false")),
    "CAGR, lambda 1": Variant((*CAGR, "model.scaling=false")),
    "CAGR, no offsets": Variant((*CAGR, "model.shift=none")),
    "CAGR, true shift": Variant((*CAGR, "model.shift=open")),
    "CAGR, 2 groups": Variant((*CAGR, "model.groups=2")),
    "CAGR, 8 groups": Variant((*CAGR, "model.groups=8")),
    "aligned, global": Variant((*PLAIN, *ALIGN, "model.alignment=global")),
    "aligned, affine": Variant((*PLAIN, *ALIGN, "model.alignment=affine")),
    "aligned in the slice": Variant((*PLAIN, *ALIGN, "model.neighbours=0")),
    "aligned, stem": Variant((*PLAIN, *ALIGN, "model.stem=8")),
}
OTHER_MOVES = {
    f"trained on {kind}, {name}": Variant(
        (*settings, f"training.misalign.kind={kind}", f"training.misalign.size={size}")
    )
    for kind, size in {"rotation": 5, "scale": 0.1, "elastic": 3}.items()
    for name, settings in {"plain": PLAIN, "aligned": (*PLAIN, *ALIGN)}.items()
}
VARIANTS = MAIN_VARIANTS | ABLATIONS | OTHER_MOVES
SETS = {
    "main": [*MAIN_VARIANTS],
    "ablations": ["plain", "aligned", "AGI-Net (CAGR)", *ABLATIONS],
    "moves": ["plain", "aligned", *OTHER_MOVES],
    "all": [*VARIANTS],
}
