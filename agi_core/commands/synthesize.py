"""`python -m agi_core synthesize`: what is missing, of one subject or of a whole folder."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from agi_core.bids import check_folder, derivative_path, describe
from agi_core.commands.bars import bars
from agi_core.commands.models import open_models
from agi_core.completion import Completion
from agi_core.data.dicom import read_series, write_derived
from agi_core.data.scans import Scans
from agi_core.errors import ConfigError, DataError
from agi_core.host import atomic
from agi_core.inference import ErrorMap, synthesize
from agi_core.layouts import LAYOUTS
from agi_core.names import shown
from agi_core.run_models import RunModels
from agi_core.scenario import Scenario
from agi_core.volume_note import OUT_OF_RANGE, check_note, spoken, write_note

_VALUES = "stand for percentiles 0.5 to 99.5 of a real scan"


def run(arguments: argparse.Namespace) -> int:
    """Make it, in files of the form that --out names; the exit code."""
    models = open_models(arguments)
    if arguments.data is not None:
        _complete(arguments, models)
        return 0
    if not arguments.source:
        raise ConfigError("give --source MODALITY=FILE for each scan of a subject, or a whole folder with --data")
    if arguments.layout not in (None, "bids"):
        raise ConfigError("--layout of --source is bids or left out; the other layouts are of --data")
    if arguments.uncertainty is not None and arguments.target is None and models.any_to_any:
        raise ConfigError("--uncertainty is the map of one volume: name what to make with --target")
    cells = models.asked([modality for modality, _ in arguments.source], arguments.target)
    _load_own(arguments, models, cells)
    if arguments.layout == "bids":
        check_folder(arguments.out)
    if arguments.target is not None or not models.any_to_any or arguments.layout == "bids":
        codes = []
        for cell in cells:
            said, code = _make(arguments, models, cell, arguments.out)
            print(said)
            codes.append(code)
        return max(codes)
    if arguments.out.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"{arguments.out}: without --target all that is missing is made, so --out is a folder")
    with atomic.new_folder(arguments.out) as new_dir:
        paths = [new_dir / f"{cell.target}.nii.gz" for cell in cells]
        made = [_make(arguments, models, cell, path) for cell, path in zip(cells, paths, strict=True)]
    print("\n".join(said for said, _ in made).replace(str(new_dir), str(arguments.out)))
    given = {modality for modality, _ in arguments.source}
    for name in sorted({*models.modalities} - given - {cell.target for cell in cells}):
        print(f"no {name}: {models.why_not(given, name)}")
    return max(code for _, code in made)


def _load_own(arguments: argparse.Namespace, models: RunModels, cells: Sequence[Scenario]) -> None:
    """Put the weights of --head or --style in place of the common ones, and say whose are used."""
    if arguments.head is not None:
        path, others = models.load_own(arguments.head, cells)
        print(f"with a site's own weights, in {shown(str(path))}{_common(others)}")
    elif arguments.style is not None:
        if arguments.uncertainty is not None:
            raise ConfigError("errors are known of the common last layer alone: leave --style or --uncertainty out")
        others = models.load_style(arguments.style, cells)
        print(f"in the style of {shown(arguments.style)}: with what it has solved for its own scans{_common(others)}")
    else:
        styles = ", ".join(map(shown, models.styles(cells)))
        print(f"common last layer; --head takes a site's own{f'; styles to be had: {styles}' if styles else ''}")


def _common(cells: Sequence[Scenario]) -> str:
    return f"; {'; '.join(map(str, cells))} with the common last layer" if cells else ""


def _complete(arguments: argparse.Namespace, models: RunModels) -> None:
    """Make what the visits of --data lack."""
    for option in ("source", "grid", "mark", "uncertainty", "strict"):
        if getattr(arguments, option):
            raise ConfigError(f"--data is a whole folder, and --{option} is of one volume: leave --{option} out")
    if arguments.out.name.endswith((".nii", ".nii.gz")) or arguments.out.is_file():
        raise ConfigError(f"{arguments.out}: --data is a whole folder, so --out is one, too; name a folder")
    if arguments.layout is None:
        raise ConfigError(f"how does {arguments.data} name scans? Pass --layout {', '.join(LAYOUTS)}")
    models.check_target(arguments.target)
    wanted = [cell for cell in (*models.networks, *models.blends) if arguments.target in (None, cell.target)]
    _load_own(arguments, models, wanted)
    scans = Scans(arguments.data.resolve(), arguments.layout, one_site=True)
    completion = Completion(models, scans, arguments.out, release=version("agi-fed"), batch_size=arguments.batch_size)
    with bars() as bar:
        completion.run(arguments.target, on_visit=bar("making volumes"))
    for doubt in completion.doubts:
        print(f"warning: {doubt}", file=sys.stderr)
    print("\n".join(completion.lines()))
    if completion.made:
        print(f"synthetic volumes in {arguments.out}; their values 0 to 1 {_VALUES}")


def _make(arguments: argparse.Namespace, models: RunModels, cell: Scenario, out_path: Path) -> tuple[str, int]:
    """Make one cell from --source; what there is to say of it, and the exit code."""
    model, note, about = models.model(cell), models.blend_note(cell), models.note(cell)
    verdict, error_map = models.verdict(cell, strict=arguments.strict), None
    if arguments.uncertainty is not None:
        error_map = ErrorMap(*models.with_error(cell), arguments.uncertainty)
    grid, given_paths = arguments.grid or model.reference, dict(arguments.source)
    if grid not in cell.sources:
        raise ConfigError(
            f"the sources are {', '.join(cell.sources)}, and the grid of {grid} was asked for; pass --grid one of them"
            " or not at all"
        )
    if arguments.layout == "bids":
        out_path = derivative_path(arguments.out, like=given_paths[grid], target=cell.target)
    else:
        check_note(out_path)
    with TemporaryDirectory() as folder:
        series = {m: read_series(path) for m, path in given_paths.items() if path.is_dir()}
        made_series = series.get(grid) if not out_path.name.endswith((".nii", ".nii.gz")) else None
        if arguments.mark and made_series is None:
            raise ConfigError("--mark is for DICOM series; give the source of the grid and --out as folders")
        if made_series is not None:
            atomic.check_new_folder(out_path)
        made_path = out_path if made_series is None else Path(folder) / "made.nii"
        source_paths = given_paths | {m: one.write_nifti(Path(folder) / f"{m}.nii") for m, one in series.items()}
        try:
            doubts = synthesize(
                model,
                source_paths=source_paths,
                out_path=made_path,
                spacing_mm=models.task.spacing_mm,
                grid=grid,
                register=models.register,
                note=about,
                batch_size=arguments.batch_size,
                judge=verdict,
                error_map=error_map,
            )
        except DataError as error:  # names what the user has given, and no file of ours
            text = str(error).replace(str(made_path), str(out_path))
            for modality, path in source_paths.items():
                text = text.replace(str(path), str(given_paths[modality]))
            raise DataError(text) from None
        if made_series is not None:
            write_derived(
                made_series,
                made_path,
                out_path,
                target=cell.target,
                sources=", ".join(cell.sources) + (f" ({about})" if about else ""),
                mark=arguments.mark,
                reasons=() if verdict is None else verdict.reasons,
            )
    if arguments.layout == "bids":
        describe(out_path, folder=arguments.out, sources=given_paths, target=cell.target, release=version("agi-fed"))
    write_note(
        out_path,
        whose=models.whose(cell),
        verdict=verdict,
        error_map=error_map,
        sidecar=arguments.layout == "bids",
    )
    compared = [f"{cell.target}: {sentence}" for sentence in spoken(verdict, private=models.task.privacy.on)]
    for sentence in (*(f"{given_paths[modality]}: {doubt}" for modality, doubt in doubts), *compared):
        print(f"warning: {sentence}", file=sys.stderr)
    blended = f"no site could train {cell.target} from {', '.join(cell.sources)}: a blend, {note}\n" if note else ""
    code = OUT_OF_RANGE if arguments.strict and verdict is not None and verdict.reasons else 0
    said = f"{blended}synthetic {cell.target} in {out_path}; its values 0 to 1 {_VALUES}"
    if verdict is not None:
        said += f"\nits sources lie {'out of' if verdict.reasons else 'in'} the range of {verdict.known}"
    return said, code
