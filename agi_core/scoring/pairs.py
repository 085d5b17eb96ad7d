"""Which synthetic volume belongs to which real one: by the names that the layout gives to both."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agi_core.errors import ConfigError, DataError
from agi_core.layouts import LAYOUTS
from agi_core.scenario import modality_parts
from agi_core.segmentation.visits import MODALITIES, SEG, named_scans, only

_NAMED = 5  # visits in a sentence
Named = Mapping[tuple[str, str, str], list[Path]]
"""{(subject, session, modality): files}"""


@dataclass(frozen=True)
class Pair:
    """A synthetic volume and the real scan of the same visit; `seg` is the tumour's segmentation, where there is one,
    `others` are the visit's real scans of other modalities, and `firsts` the subject's, of all visits, of the first
    modality of the segmentation network.

    The session is empty where the layout does not name visits.
    """

    subject: str
    session: str
    modality: str
    synthetic: Path
    real: Path
    seg: Path | None
    others: Mapping[str, Path]
    firsts: Sequence[Path]

    @property
    def name(self) -> str:
        """The visit, for messages."""
        return f"{self.subject} {self.session}".strip()


def find_pairs(
    data_dir: Path, synthetic_dir: Path, *, layout: str, target: str | None = None, left_out: Collection[str] = ()
) -> tuple[list[Pair], list[str]]:
    """The pairs of two folders by subject, visit and modality, and notes about volumes without their counterpart.

    Args:
        layout: how both folders name scans, a key of `LAYOUTS`.
        target: the modality to score; None: every one that the synthetic folder has.
        left_out: ids of subjects that have no synthetic volume on purpose.

    Raises:
        ConfigError: an unknown layout.
        DataError: a folder cannot be read, there is no pair, two files are the same volume of a visit, a volume may
            stand for two real ones, or a synthetic file is the real one itself.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout '{layout}'; pass --layout {', '.join(LAYOUTS)}")
    asked = () if target is None else (target,)
    real, synthetic = (named_scans(folder, layout, asked=asked) for folder in (data_dir, synthetic_dir))
    scored = _standing_for(synthetic, real, target)
    if not scored:
        there = ", ".join(sorted({modality for _, _, modality in synthetic})) or "nothing"
        raise DataError(
            f"{synthetic_dir} has no synthetic {target or 'volume'} named as in the {layout} layout, such as"
            f" {LAYOUTS[layout].example}; there is {there}. Check --synthetic, --layout and --target"
        )
    pairs = []
    for key in sorted(scored.keys() & real.keys()):
        subject, session, modality = key
        others = {m: paths[0] for (*visit, m), paths in real.items() if visit == [subject, session] and len(paths) == 1}
        seg = real.get((subject, session, SEG))
        pair = Pair(
            *key,
            synthetic=only(scored[key]),
            real=only(real[key]),
            seg=only(seg) if seg else None,
            others={m: path for m, path in others.items() if m not in (modality, SEG)},
            firsts=[p for (its, _, m), paths in real.items() if (its, m) == (subject, MODALITIES[0]) for p in paths],
        )
        if pair.synthetic.samefile(pair.real):
            raise DataError(f"{pair.synthetic} is the real scan itself. Give the folder of synthetic volumes.")
        pairs.append(pair)
    if not pairs:
        raise DataError(
            f"no volume of {synthetic_dir} has a real counterpart in {data_dir}: {_listed(scored)} there,"
            f" {_listed(real)} here. Check --synthetic and --data"
        )
    notes: list[tuple[str, Collection[tuple[str, ...]]]] = [
        *_not_scored(pairs, {key for key in real if key[0] not in left_out}),
        ("no real scan to score the synthetic volume against", scored.keys() - real.keys()),
        (
            "no segmentation, and so no figures of tumour and healthy tissue",
            [(p.subject, p.session) for p in pairs if p.seg is None],
        ),
    ]
    told = [f"{what}: {_listed(which)}" for what, which in notes if which]
    modalities = sorted({pair.modality for pair in pairs})
    told += [f"means over {' and '.join(modalities)} together; --target takes one"] if modalities[1:] else []
    return pairs, told


def _not_scored(
    pairs: Sequence[Pair], real: Collection[tuple[str, str, str]]
) -> list[tuple[str, Collection[tuple[str, ...]]]]:
    """(what they lack, visits) of those of the real scans by subject, visit and modality. Where no visit has two
    synthetic volumes, each may have another modality, as in the challenge."""
    done = {(pair.subject, pair.session, pair.modality) for pair in pairs}
    modalities = sorted({modality for *_, modality in done})
    missing = {key for key in real if key[2] in modalities} - done
    visits = {key[:2] for key in done}
    if len(visits) == len(done):
        return [("no synthetic volume, and so not scored", {key[:2] for key in missing} - visits)]
    return [(f"no synthetic {m}, and so not scored", {key for key in missing if key[2] == m}) for m in modalities]


def _standing_for(synthetic: Named, real: Named, target: str | None) -> dict[tuple[str, str, str], list[Path]]:
    """The synthetic volumes by subject, visit and the real modality in whose place they are: the target, if any."""
    held: dict[tuple[str, str], list[str]] = defaultdict(list)
    for subject, session, modality in real:
        held[subject, session].append(modality)
    found: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for (subject, session, modality), paths in synthetic.items():
        name = _counterpart(modality, held[subject, session], target)
        if name == (target or name) != SEG:
            found[subject, session, name] += paths
    return found


def _counterpart(modality: str, held: Collection[str], target: str | None) -> str:
    """The modality of BIDS for which a synthetic one stands, where a visit holds these real ones. A `desc-` says how a
    volume was made, so that of the real scan may be another: `FLAIR` stands for `FLAIR[desc-preproc]` if that is asked
    for, or if there is no other. Raises DataError: it may stand for several."""
    if modality in held and "desc-" in modality:
        return modality
    if target is not None and _shown(target) == _shown(modality):
        return target
    like = [name for name in held if _shown(name) == _shown(modality)]
    plain = [name for name in like if "desc-" not in name]
    if len(plain or like) > 1:
        raise DataError(f"a synthetic {modality} may stand for {' or '.join(sorted(like))}; choose one with --target")
    return (plain or like or [modality])[0]


def _shown(modality: str) -> tuple[str, frozenset[str]]:
    """A modality without the entity of BIDS that says how a scan was made."""
    name, entities = modality_parts(modality)
    return name, frozenset(entity for entity in entities if not entity.startswith("desc-"))


def _listed(visits: Iterable[tuple[str, ...]]) -> str:
    """How many visits, and the first of them."""
    names = {f"{subject} {session}".strip() for subject, session, *_ in visits}
    first = ", ".join(sorted(names)[:_NAMED])
    return f"{len(names)} ({first}{', ...' if len(names) > _NAMED else ''})" if names else "none"
