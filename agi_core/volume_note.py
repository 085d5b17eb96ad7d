"""What is said of a synthetic volume beside it: whether its sources are like those of training, and its interval."""

from pathlib import Path

from agi_core.conformal import WANTED
from agi_core.host import atomic
from agi_core.inference import ErrorMap
from agi_core.known_range import BlendVerdict, Verdict
from agi_core.run.json_objects import read_json

OUT_OF_RANGE = 3  # exit code


def write_note(
    out_path: Path, *, verdict: Verdict | BlendVerdict | None, error_map: ErrorMap | None, sidecar: bool
) -> None:
    """Write the note as JSON, under the name of the volume or folder `out_path`; nothing where there is nothing to say.

    Args:
        sidecar: whether such a file is there already, as of BIDS, and is added to.
    """
    note: dict[str, object] = {}
    if verdict is not None:
        note["OutOfKnownRange"] = list(verdict.reasons)
        note["KnownRange"] = f"of {verdict.known}"
    if error_map is not None:
        interval = error_map.interval
        note["ExpectedAbsoluteError"] = error_map.path.name
        note["IntervalFactor"] = interval.factor
        note["IntervalCoverage"] = WANTED
        note["IntervalCoverageGuaranteed"] = interval.guaranteed
        note["CalibrationSubjects"] = interval.subjects
        note["CalibrationSites"] = interval.sites
    if note:
        path = out_path.with_name(out_path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        atomic.write_json(path, ((read_json(path) or {}) if sidecar else {}) | note)


def spoken(verdict: Verdict | BlendVerdict | None) -> list[str]:
    """The same of the verdict, for the terminal: a sentence for each reason, or why there is none."""
    if verdict is None:
        return ["not compared with the scans of training, because the model has no known range (calibrate makes it)"]
    return [f"out of what the model knows: {reason}" for reason in verdict.reasons]
