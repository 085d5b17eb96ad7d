"""The synthetic volumes of a run's model: its target for every visit of a folder that was not used to train it."""

from collections.abc import Callable
from pathlib import Path

from agi_core.data.fingerprint import fingerprints, part_of
from agi_core.data.nifti import with_small_suffix
from agi_core.data.scans import Scans, discover
from agi_core.errors import DataError, RunError
from agi_core.evaluation import EVALUATION_BATCH
from agi_core.export.archive import ERROR_MODEL
from agi_core.inference import ErrorMap, synthesize
from agi_core.run import error_model
from agi_core.run.run_folder import read_namesakes, read_parts
from agi_core.run_models import RunModels
from agi_core.scoring.tissue import segmentations
from agi_core.scoring.volume import Intervals
from agi_core.segmentation.labels import check_labels
from agi_core.uncertainty import WithError


def make_volumes(
    models: RunModels, scans: Scans, out_dir: Path, *, on_visit: Callable[[int, int], None] | None = None
) -> tuple[list[str], list[str], Intervals | None]:
    """Write the synthetic target of each visit, by the one model that there is, under the path that the real one has in
    its folder.

    Subjects that trained the model or chose its best round are left out, as far as their scans are known.

    Where the model has an error model, a map of the expected error is written beside them in `expected_errors`, but not
    of subjects that calibrated it.

    Returns:
        The ids of those subjects, notes on what was left out or is not known, and on what is odd about sources, and the
        intervals, where there is an error model.

    Raises:
        DataError: a scan or a segmentation cannot be used, or every subject was used in training.
    """
    (cell,) = models.networks
    network, run_dir = models.network(cell), models.place if models.place.is_dir() else None
    found = discover(scans, network.scenario.modalities, of_model=True)
    parts, now = {} if run_dir is None else read_parts(run_dir), fingerprints(found.subjects)
    errors, maps_dir, unfit = None, out_dir.with_name("expected_errors"), []
    if ERROR_MODEL in models.extras if run_dir is None else (run_dir / error_model.NAME).is_file():
        try:
            errors = models.error_model(cell)
        except RunError as error:
            unfit = [f"no coverage: {error}"]
    left_out = [s.id for s in found.subjects if part_of(now[s.id], parts) in ("train", "validation")]
    subjects = [subject for subject in found.subjects if subject.id not in left_out]
    if not subjects:
        raise DataError(
            f"every subject of {scans.dir} trained the model of {models.place}; give --data with other subjects"
        )
    visits = [(subject.id, session) for subject in subjects for session in subject.sessions]
    real = {(its, session.name): session.paths[network.scenario.target] for its, session in visits}
    segs = segmentations(scans)
    notes = check_labels({segs[visit]: path for visit, path in real.items() if visit in segs}) + unfit
    notes += [found.skips] if found.skips else []
    if not parts:
        notes.append("which subjects trained the model is not known here; scores of those would be too good")
    notes += [f"used in training or validation, and so not scored: {', '.join(left_out)}"] if left_out else []
    if run_dir is not None and (namesakes := read_namesakes(run_dir, now, parts=("train", "validation"))):
        notes.append(
            "named like subjects that trained or validated the model, but other files, and so scored:"
            f" {', '.join(namesakes)}; of the same people scores are too good"
        )
    if models.task.training.align_target:
        notes.append(
            f"trained for the target's place on {network.reference}; where real ones lie elsewhere, scores are too low"
        )
    calibrated = [subject.id for subject in subjects if errors and {*now[subject.id]} & {*errors.calibrated_on}]
    notes += [f"calibrated the interval, and so no coverage: {', '.join(calibrated)}"] if calibrated else []
    for done, (subject_id, session) in enumerate(visits, start=1):
        place = with_small_suffix(session.paths[network.scenario.target].relative_to(scans.dir))
        error_map = None
        if errors and subject_id not in calibrated:
            error_map = ErrorMap(WithError(network, errors.layer), errors.interval, maps_dir / place)
        doubts = synthesize(
            network,
            source_paths={modality: session.paths[modality] for modality in network.scenario.sources},
            out_path=out_dir / place,
            spacing_mm=models.task.spacing_mm,
            register=models.register,
            batch_size=EVALUATION_BATCH,
            error_map=error_map,
        )
        notes += [f"{subject_id} {session.name}".strip() + f": {modality}: {doubt}" for modality, doubt in doubts]
        if on_visit is not None:
            on_visit(done, len(visits))
    return left_out, notes, Intervals(maps_dir, out_dir, errors.factor) if errors else None
