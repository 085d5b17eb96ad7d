"""What is said of a synthetic volume beside it: whether its sources are like those of training, and its interval."""

from pathlib import Path

from agi_core.conformal import WANTED, guaranteed
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.known_range import FEWEST, KnownRange, Verdict
from agi_core.network import Network
from agi_core.run.json_objects import read_json
from agi_core.uncertainty import ErrorModel

OUT_OF_RANGE = 3  # exit code


def verdict_by(known: KnownRange | None, network: Network, *, strict: bool) -> Verdict | None:
    """The verdict that a model's known range gives on sources; None where there is no such range.

    Raises:
        ConfigError: there is none, and the verdict is wanted.
    """
    if known is None and strict:
        raise ConfigError(
            f"--strict needs the known range of the model, and it has none; make it with python -m agi_core calibrate"
            f" --run RUN --data DIR, with {FEWEST} complete subjects or more (for a zip: export the run again then)"
        )
    return None if known is None else Verdict(known, network)


def write_note(
    out_path: Path, *, verdict: Verdict | None, error_map: tuple[ErrorModel, Path] | None, sidecar: bool
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
        errors, path = error_map
        note["ExpectedAbsoluteError"] = path.name
        note["IntervalFactor"] = errors.factor
        note["IntervalCoverage"] = WANTED
        note["IntervalCoverageGuaranteed"] = guaranteed(errors.subjects)
        note["CalibrationSubjects"] = errors.subjects
        note["CalibrationSites"] = errors.sites
    if note:
        path = out_path.with_name(out_path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        atomic.write_json(path, ((read_json(path) or {}) if sidecar else {}) | note)


def spoken(verdict: Verdict | None, *, blend: bool = False) -> list[str]:
    """The same of the verdict, for the terminal: a sentence for each reason, or why there is none."""
    if verdict is None:
        why = "a blend has no known range" if blend else "the model has no known range (calibrate makes it)"
        return [f"not compared with the scans of training, because {why}"]
    return [f"out of what the model knows: {reason}" for reason in verdict.reasons]
