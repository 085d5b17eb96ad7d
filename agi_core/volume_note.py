"""What is said of a synthetic volume beside it: whether its sources are like those of training, and its interval."""

import json
from pathlib import Path

from agi_core.conformal import WANTED
from agi_core.errors import DataError
from agi_core.host import atomic
from agi_core.inference import ErrorMap
from agi_core.known_range import BlendVerdict, Verdict
from agi_core.run.json_objects import read_json

OUT_OF_RANGE = 3  # exit code
_LAST_LAYER = "LastLayer"
_OF_RANGE = ("OutOfKnownRange", "KnownRange")
_OF_ERRORS = (
    *("ExpectedAbsoluteError", "IntervalFactor", "IntervalCoverage", "IntervalCoverageGuaranteed"),
    *("CalibrationSubjects", "CalibrationSites"),
)


def check_note(out_path: Path) -> None:
    """Raise DataError where the note of a volume or folder would have the name of a file that is no note."""
    path = _note_path(out_path)
    if path.exists() and not _is_note(path):
        raise DataError(f"{path} is there already, and is no note of a synthetic volume. Choose another output file.")


def write_note(
    out_path: Path, *, whose: str, verdict: Verdict | BlendVerdict | None, error_map: ErrorMap | None, sidecar: bool
) -> None:
    """Write the note as JSON, under the name of the volume or folder `out_path`. Where there is nothing to say, the
    note of a volume that was there before is removed.

    Args:
        whose: the weights of a site's own that made it; "" for the common ones.
        sidecar: whether such a file is there already, as of BIDS, and is added to.
    """
    note: dict[str, object] = {}
    if verdict is not None:
        note |= zip(_OF_RANGE, (list(verdict.reasons), f"of {verdict.known}"), strict=True)
    if error_map is not None:
        interval = error_map.interval
        told = (interval.factor, WANTED, interval.guaranteed, interval.subjects, interval.sites)
        note |= zip(_OF_ERRORS, (error_map.path.name, *told), strict=True)
    path = _note_path(out_path)
    if note or sidecar:
        note[_LAST_LAYER] = whose or "common"
        atomic.write_json(path, ((read_json(path) or {}) if sidecar else {}) | note)
    elif _is_note(path):
        path.unlink()


def _note_path(out_path: Path) -> Path:
    return out_path.with_name(out_path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _is_note(path: Path) -> bool:
    """Whether a file is there that has what a note has and nothing else: one of the user's own is left alone."""
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(there, dict) and bool(there) and there.keys() <= {_LAST_LAYER, *_OF_RANGE, *_OF_ERRORS}


def spoken(verdict: Verdict | BlendVerdict | None, *, private: bool = False) -> list[str]:
    """The same of the verdict, for the terminal: a sentence for each reason, or why there is none.

    Args:
        private: whether the model's run is, so that what calibrate makes must not follow the model.
    """
    if verdict is None:
        how = "calibrate makes it" + (", without noise: it must stay at this hospital" if private else "")
        return [f"not compared with the scans of training, because the model has no known range ({how})"]
    return [f"out of what the model knows: {reason}" for reason in verdict.reasons]
