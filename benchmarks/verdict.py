"""What the verdict "out of what the model knows" finds, and what it does not: one ROC per kind of strange sources.

    python -m benchmarks.verdict

Built-in data in IXI's layout: a range of subjects of two sites and three anatomies, new subjects of these as they are,
and in turn of another site, of another anatomy, and with their sources changed. Then in BraTS's layout: a range of
heads without a tumour, new ones without, and the same with theirs. No model is trained, because the verdict looks at
sources alone, after the alignment of the default model, which has no weights. Measures of each subject are kept in
--out, so that the command can be stopped at any time and started again; `--pause 300` stops it by itself after the
subject that passes 300 s.
"""

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy import stats

from agi_core.config.load import load_config
from agi_core.data.nifti import Volume, read_volume
from agi_core.data.phantom import subject
from agi_core.data.phantom.tree import parse_sites, write_phantom
from agi_core.data.phantom.tumour import Tumour, new_tumour
from agi_core.data.preprocess import align
from agi_core.data.scans import Scans, discover
from agi_core.host import atomic
from agi_core.known_range import KnownRange, Measures, measure
from agi_core.layouts import LayoutName
from agi_core.network import Network
from benchmarks.commit import commit

Volumes = Mapping[str, Volume]
SCENARIOS: Mapping[str, Mapping[str, str]] = {
    "ixi": {"scenario": "T1,T2:PD", "reference": "T2"},
    "brats": {"scenario": "t1n,t1c,t2w:t2f", "reference": "t2w"},
}
UNSEEN = "ms19"
LESION_MM = 15  # radius


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".cache/verdict"), help="kept results (%(default)s)")
    parser.add_argument("--known", default="Guys:16,HH:16", help="sites and subjects of the range (%(default)s)")
    parser.add_argument("--new", default="Guys:12,HH:12", help="sites and subjects that are tested (%(default)s)")
    parser.add_argument("--other", default="IOP:12", help="another site (%(default)s)")
    parser.add_argument("--heads", default="A:16,B:16", help="of the range without tumours (%(default)s)")
    parser.add_argument("--new-heads", default="A:12,B:12", help="that are tested with and without (%(default)s)")
    parser.add_argument("--pause", type=float, default=np.inf, metavar="SECONDS", help="stop after that time")
    arguments = parser.parse_args()
    stop_s = time.monotonic() + arguments.pause
    found: dict[str, list[Measures]] = {}
    for seed, part in enumerate(("known", "new", "other")):
        data_dir = arguments.out / part
        if not data_dir.exists():
            write_phantom(data_dir, layout="ixi", sites=parse_sites(getattr(arguments, part)), seed=seed)
        anatomies = anatomy_of(data_dir)
        for subject_id, cases in measured(data_dir, arguments.out / "measures" / part, changed=part == "new"):
            for kind, measures in kinds(part, cases, unseen=anatomies[subject_id] == UNSEEN):
                found.setdefault(kind, []).append(measures)
            pause(stop_s)
    known = KnownRange.over(found.pop("known"), of="training")
    heads = measured_heads(arguments, stop_s=stop_s)
    healthy = KnownRange.over(heads["known"], of="training")
    print(f"commit {commit()}, ranges of {known.subjects} subjects and {healthy.subjects} heads without a tumour\n")
    print("| sources | subjects | AUC | called out of range |\n|---|---|---|---|")
    print(rows(known, found.pop(""), found, usual_as="as in the range"))
    print(rows(healthy, heads["without"], {"the same with it": heads["with"]}, usual_as="a head without its glioma"))


def measured_heads(arguments: argparse.Namespace, *, stop_s: float) -> dict[str, list[Measures]]:
    """Of heads in BraTS's layout: `known` ones without a tumour, and the same new ones `without` and `with` it."""
    found: dict[str, list[Measures]] = {}
    for name, sites, seed in (("known", "heads", 3), ("without", "new_heads", 4), ("with", "new_heads", 4)):
        data_dir = arguments.out / f"heads {name}"
        if not data_dir.exists():
            with nullcontext() if name == "with" else patch.object(subject, "new_tumour", no_tumour):
                write_phantom(data_dir, layout="brats", sites=parse_sites(getattr(arguments, sites)), seed=seed)
        for _, cases in measured(data_dir, arguments.out / "measures" / data_dir.name, changed=False):
            found.setdefault(name, []).append(cases[""])
            pause(stop_s)
    return found


def no_tumour(*given: Any) -> Tumour:
    """The generator's tumour of the same draws, without size."""
    tumour = new_tumour(*given)
    return dataclasses.replace(tumour, core_mm=-1e3, rim_mm=0.0, oedema_mm=0.0, mass_effect_mm=0.0)


def pause(stop_s: float) -> None:
    if time.monotonic() > stop_s:
        raise SystemExit("paused; start again to go on")


def kinds(part: str, cases: Mapping[str, Measures], *, unseen: bool) -> list[tuple[str, Measures]]:
    """What the measures of a subject are an example of; "" is a usual new subject. Of the anatomy that the range does
    not have, only new subjects as they are count."""
    if unseen:
        return [("another anatomy", cases[""])] if part == "new" else []
    return [*cases.items()] if part == "new" else [({"other": "another site"}.get(part, part), cases[""])]


def anatomy_of(data_dir: Path) -> dict[str, str]:
    """Of each subject in built-in data."""
    with (data_dir / "truth.csv").open(newline="", encoding="utf-8") as file:
        return {row["subject"].partition("-")[0]: row["anatomy"] for row in csv.DictReader(file)}


def measured(data_dir: Path, kept_dir: Path, *, changed: bool) -> Iterator[tuple[str, dict[str, Measures]]]:
    """(subject id, {change: measures}) as they come; the change "" is none."""
    layout: LayoutName = "brats" if (data_dir / "partitioning.csv").exists() else "ixi"
    network = default_model(layout)
    sources, reference = network.scenario.sources, network.reference
    for its in discover(Scans(data_dir, layout), sources).subjects:
        path = kept_dir / f"{its.id}.json"
        if not path.exists():
            volumes = {m: read_volume(its.sessions[0].paths[m]) for m in sources}
            cases = {"": volumes} | ({name: change(volumes) for name, change in CHANGES.items()} if changed else {})
            of_cases = {
                name: measure(case, align(case, to=reference, spacing_mm=None, place="here"), network=network)
                for name, case in cases.items()
            }
            atomic.write_json(path, of_cases)
        yield its.id, json.loads(path.read_bytes())


@cache
def default_model(layout: LayoutName) -> Network:
    """With the default alignment of the layout, which has no weights."""
    return Network(load_config(None, overrides={"data.layout": layout, **SCENARIOS[layout]}, assignments=[]))


def with_data(volumes: Volumes, change: Callable[[str, Volume], np.ndarray]) -> Volumes:
    """The volumes with other voxels."""
    return {m: dataclasses.replace(v, data=np.ascontiguousarray(change(m, v))) for m, v in volumes.items()}


def t1_as_t2(volumes: Volumes) -> Volumes:
    """T1 in both places, the second time with a little noise: the very same image twice is refused before."""
    t1 = volumes["T1"]
    noise = np.random.default_rng(0).normal(0, 0.01 * t1.data.std(), t1.data.shape).astype(np.float32)
    return {"T1": t1, "T2": dataclasses.replace(t1, data=t1.data + noise)}


def half_missing(modality: str, volume: Volume) -> np.ndarray:
    """The slices of the lower half of the field of view as they are, and the least value above them."""
    data = volume.data.copy()
    data[:, :, data.shape[2] // 2 :] = data.min()
    return data


def lesion(modality: str, volume: Volume) -> np.ndarray:
    """A ball of LESION_MM radius, 30 mm right of and above the middle: dark in T1, bright in T2."""
    shape, spacing_mm = np.array(volume.data.shape), np.array(volume.grid.spacing_mm)
    at_mm = (np.indices(volume.data.shape).T - (shape - 1) / 2) * spacing_mm
    inside = np.linalg.norm(at_mm - [30, 0, 10], axis=-1).T < LESION_MM
    dark, bright = np.percentile(volume.data[volume.data > volume.data.mean()], [10, 95])
    return np.where(inside, dark if modality == "T1" else bright, volume.data)


CHANGES: dict[str, Callable[[Volumes], Volumes]] = {
    "T1 given as T2": t1_as_t2,
    "sources swapped": lambda v: {"T1": v["T2"], "T2": v["T1"]},
    "left and right flipped": lambda v: with_data(v, lambda m, volume: volume.data[::-1]),
    "intensities x 10": lambda v: with_data(v, lambda m, volume: volume.data * 10),
    "upper half missing": lambda v: with_data(v, half_missing),
    "a lesion in a healthy head": lambda v: with_data(v, lesion),
}


def rows(
    known: KnownRange, usual: Sequence[Measures], strange: Mapping[str, Sequence[Measures]], *, usual_as: str
) -> str:
    """Of a Markdown table: area under the ROC of the greatest distance, and what is called out of range."""

    def farthest(subjects: Sequence[Measures]) -> np.ndarray:
        return np.array([max(known.distances(one).values()) for one in subjects])

    base = farthest(usual)
    lines = [f"| {usual_as} | {len(base)} | | {(base > 1).mean():.0%} |"]
    for name, subjects in strange.items():
        scores = farthest(subjects)
        lines.append(f"| {name} | {len(scores)} | {auc(base, scores):.2f} | {(scores > 1).mean():.0%} |")
    return "\n".join(lines)


def auc(usual: np.ndarray, strange: np.ndarray) -> float:
    """How often a strange subject scores above a usual one; a tie is a half."""
    return float(stats.mannwhitneyu(strange, usual).statistic / (len(strange) * len(usual)))


if __name__ == "__main__":
    main()
