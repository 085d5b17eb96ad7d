"""`python -m agi_core`: built-in data, pre-training, use and evaluation of a trained model, and planning of privacy.

Each command imports what it needs by itself: torch takes seconds to import, and `--help` has no use for it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

from rich.progress import Progress

from agi_core.config.load import load_config
from agi_core.config.schema import Trainable
from agi_core.errors import ConfigError, DataError, RunError
from agi_core.host.command_line import count, named_path, positive, run_command, seed
from agi_core.layouts import LAYOUTS
from agi_core.names import file_stem, shown
from agi_core.run import progress, run_folder
from agi_core.scenario import Scenario

if TYPE_CHECKING:
    from agi_core.run_models import RunModels

_VALUES = "stand for percentiles 0.5 to 99.5 of a real scan"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: arguments.command(arguments))


# The docstring of each command is its help.


def _phantom(arguments: argparse.Namespace) -> None:
    """write built-in synthetic data as a real NIfTI tree"""
    from agi_core.data.phantom.tree import parse_sites, write_phantom

    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("making synthetic data", total=None)
        write_phantom(
            arguments.out,
            layout=arguments.layout,
            sites=parse_sites(arguments.sites),
            seed=arguments.seed,
            isotropic=arguments.isotropic,
            on_subject=lambda done, total: live.update(bar, completed=done, total=total),
        )
    print(f"synthetic {arguments.layout} data in {arguments.out}")


def _pretrain(arguments: argparse.Namespace) -> None:
    """train on public data (default: built-in) without privacy, as a start for private runs"""
    from agi_core.data.phantom.built_in import PUBLIC, with_built_in_data
    from agi_core.host.device import open_device
    from agi_core.pretraining import PRETRAINING, pretrain

    config = load_config(None, overrides={}, assignments=arguments.settings, defaults=PRETRAINING)
    if config.privacy.on:
        raise ConfigError("pre-training has no privacy and is for public data only; leave privacy.epsilon out")
    device = open_device(config.device, threads=config.threads, deterministic=config.deterministic)
    with _showing_steps():
        config = with_built_in_data(config, PUBLIC, work_dir=Path(".cache"))
        pretrain(config, arguments.out, device=device)
    print(f"initial weights in {arguments.out}; start a run from them with initial_weights={arguments.out}")


@contextmanager
def _showing_steps() -> Iterator[None]:
    """A bar on the terminal of what is reported as a step within the block."""
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("starting", total=None)

        def show(news: progress.News) -> None:
            if isinstance(news, progress.Step):
                live.update(bar, description=news.phase, completed=news.step, total=news.steps)

        with progress.listening(show):
            yield


def _synthesize(arguments: argparse.Namespace) -> int:
    """make what is missing, of one subject or of a whole folder, with a run's models or an exported one"""
    from agi_core.host import atomic

    models = _models(arguments)
    if arguments.data is not None:
        _complete(arguments, models)
        return 0
    if not arguments.source:
        raise ConfigError("give --source MODALITY=FILE for each scan of a subject, or a whole folder with --data")
    if arguments.layout not in (None, "bids"):
        raise ConfigError("--layout of --source is bids or left out; the other layouts are of --data")
    cells = models.asked([modality for modality, _ in arguments.source], arguments.target)
    _load_own(arguments, models, cells)
    if arguments.target is not None or not models.any_to_any or arguments.layout == "bids":
        codes = []
        for cell in cells:
            said, code = _make(arguments, models, cell, arguments.out)
            print(said)
            codes.append(code)
        return max(codes)
    if arguments.uncertainty is not None:
        raise ConfigError("--uncertainty is the map of one volume: name what to make with --target")
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


def _models(arguments: argparse.Namespace) -> "RunModels":
    """Of --run or --model."""
    from agi_core.host.device import open_device
    from agi_core.network import Network
    from agi_core.run_models import RunModels

    device = open_device(arguments.device, threads=arguments.threads)
    if arguments.model is None:
        return RunModels.of(arguments.run, best=arguments.weights == "best", device=device)
    from agi_core.export.archive import read_archive

    if arguments.weights == "best":
        raise ConfigError("a zip holds one model; export chooses it, so leave --weights out")
    description, weights, extras = read_archive(arguments.model, release=version("agi-fed"))
    network = Network(description.task, device=device)
    network.load(weights)
    scenario = network.scenario
    networks = {scenario: lambda: network}
    register = description.register
    return RunModels(arguments.model, scenario.modalities, description.task, register, networks, extras=extras)


def _load_own(arguments: argparse.Namespace, models: "RunModels", cells: Sequence[Scenario]) -> None:
    """Put the weights of --head or --style in place of the common ones, and say whose are used."""
    if arguments.head is not None:
        models.load_own(arguments.head, cells)
    elif arguments.style is not None:
        if arguments.uncertainty is not None:
            raise ConfigError("errors are known of the common last layer alone: leave --style or --uncertainty out")
        others = models.load_style(arguments.style, cells)
        common = f"; {'; '.join(map(str, others))} with the common last layer" if others else ""
        print(f"in the style of {shown(arguments.style)}: with what it has solved for its own scans{common}")
    else:
        styles = ", ".join(map(shown, models.styles(cells)))
        print(f"common last layer; styles to be had: {styles}" if styles else "common last layer")


def _complete(arguments: argparse.Namespace, models: "RunModels") -> None:
    """Make what the visits of --data lack."""
    from agi_core.completion import Completion
    from agi_core.data.scans import Scans

    for option in ("source", "grid", "mark", "uncertainty", "strict"):
        if getattr(arguments, option):
            raise ConfigError(f"--data is a whole folder, and --{option} is of one volume: leave --{option} out")
    if arguments.layout is None:
        raise ConfigError(f"how does {arguments.data} name scans? Pass --layout {', '.join(LAYOUTS)}")
    _load_own(arguments, models, [*models.networks])
    scans = Scans(arguments.data.resolve(), arguments.layout)
    completion = Completion(models, scans, arguments.out, release=version("agi-fed"), batch_size=arguments.batch_size)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("making volumes", total=None)
        completion.run(arguments.target, on_visit=lambda done, total: live.update(bar, completed=done, total=total))
    for doubt in completion.doubts:
        print(f"warning: {doubt}", file=sys.stderr)
    print("\n".join(completion.lines()))
    if completion.made:
        print(f"synthetic volumes in {arguments.out}; their values 0 to 1 {_VALUES}")


def _make(arguments: argparse.Namespace, models: "RunModels", cell: Scenario, out_path: Path) -> tuple[str, int]:
    """Make one cell from --source; what there is to say of it, and the exit code."""
    from agi_core.bids import derivative_path, describe
    from agi_core.data.dicom import read_series, write_derived
    from agi_core.inference import ErrorMap, synthesize
    from agi_core.volume_note import OUT_OF_RANGE, spoken, write_note

    model, note = models.model(cell), models.note(cell)
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
    with TemporaryDirectory() as folder:
        series = {m: read_series(path) for m, path in given_paths.items() if path.is_dir()}
        made_series = series.get(grid) if not out_path.name.endswith((".nii", ".nii.gz")) else None
        if arguments.mark and made_series is None:
            raise ConfigError("--mark is for DICOM series; give the source of the grid and --out as folders")
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
                note="; ".join(filter(None, [arguments.style and f"style of {file_stem(arguments.style)}", note])),
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
            sources = ", ".join(cell.sources) + (f" (a blend: {note})" if note else "")
            write_derived(made_series, made_path, out_path, target=cell.target, sources=sources, mark=arguments.mark)
    if arguments.layout == "bids":
        describe(out_path, folder=arguments.out, sources=given_paths, target=cell.target, release=version("agi-fed"))
    write_note(out_path, verdict=verdict, error_map=error_map, sidecar=arguments.layout == "bids")
    compared = spoken(verdict)
    for sentence in (*(f"{given_paths[modality]}: {doubt}" for modality, doubt in doubts), *compared):
        print(f"warning: {sentence}", file=sys.stderr)
    blended = f"no site could train {cell.target} from {', '.join(cell.sources)}: a blend, {note}\n" if note else ""
    code = OUT_OF_RANGE if arguments.strict and verdict is not None and verdict.reasons else 0
    said = f"{blended}synthetic {cell.target} in {out_path}; its values 0 to 1 {_VALUES}"
    if verdict is not None:
        said += f"\nits sources lie {'out of' if verdict.reasons else 'in'} the range of {verdict.known}"
    return said, code


def _calibrate(arguments: argparse.Namespace) -> None:
    """learn from complete subjects how far to trust a run's volumes, for synthesize --uncertainty and --strict"""
    from agi_core import known_range
    from agi_core.calibration import calibrate_on
    from agi_core.conformal import WANTED, guaranteed
    from agi_core.data.scans import Scans
    from agi_core.host.device import open_device
    from agi_core.network import Network
    from agi_core.run import error_model
    from agi_core.run.checkpoint import trained_weights
    from agi_core.run.own_weights import load_own_weights

    config = run_folder.open_scenario(arguments.run)
    network = Network(config, device=open_device(arguments.device, threads=arguments.threads))
    network.load(trained_weights(arguments.run, best=arguments.weights == "best"))
    if arguments.head is not None:
        load_own_weights(arguments.head, network=network)
    if arguments.data is not None:
        layout = arguments.layout or config.data.layout
        scans = Scans(arguments.data.resolve(), layout, register=config.data.register)
    elif config.data.dir is not None:
        scans = Scans.of(config.data)
    else:
        raise ConfigError("the run names no folder of scans; give --data with complete subjects that did not train")
    with _showing_steps():
        made = calibrate_on(
            network,
            scans,
            task=config.task,
            parts=run_folder.read_parts(arguments.run),
            cache_dir=arguments.cache_dir,
        )
    errors, known, known_path = made.errors, made.known, arguments.run / known_range.NAME
    print(
        f"{WANTED:.0%} interval: {errors.factor:.2f} expected errors, of {errors.subjects} subjects; of"
        f" new ones it covers {guaranteed(errors.subjects):.0%} at least, on average"
    )
    for site, shares in sorted(made.covered.items()):
        print(
            f"{site}: {sum(shares) / len(shares):.0%} covered by the interval of the others, {min(shares):.0%} to"
            f" {max(shares):.0%} of {len(shares)} subjects"
        )
    error_model.write_error_model(arguments.run / error_model.NAME, errors, network=network)
    for note in made.notes:
        print(f"warning: {note}", file=sys.stderr)
    before = None
    with suppress(RunError):  # a damaged one is made again
        before = known_range.read_known_range(known_path, network=network)
    of_training = known_range.OF_TRAINING
    if known is not None and (known.of == of_training or before is None or before.of != of_training):
        known.write(known_path)
        print(f"known range: of {known}")
    elif before is not None:
        print(f"known range: as before, of {before}")


def _adapt(arguments: argparse.Namespace) -> None:
    """solve a last layer for a hospital that took no part, on its own subjects"""
    from agi_core.adaptation import adapt
    from agi_core.data.scans import Scans
    from agi_core.host.device import open_device
    from agi_core.network import Network
    from agi_core.run.checkpoint import trained_weights
    from agi_core.run.own_weights import write_own_weights

    config = run_folder.open_scenario(arguments.run)
    network = Network(config, device=open_device(arguments.device, threads=arguments.threads))
    network.load(trained_weights(arguments.run, best=arguments.weights == "best"))
    layout = arguments.layout or config.data.layout
    scans = Scans(arguments.data.resolve(), layout, register=config.data.register)
    with _showing_steps():
        adaptation = adapt(network, scans, task=config.task, cache_dir=arguments.cache_dir)
    print(adaptation.found)
    write_own_weights(arguments.out, adaptation.own, network=network)
    count = len(adaptation.subjects)
    how = f"left out of the other {count - 1}" if count > 1 else "the only subject, so this is no test"
    print(
        f"{adaptation.scored}, {how}: {adaptation.common_db:.2f} dB with the common model, {adaptation.own_db:.2f} dB"
        " with a last layer of its hospital"
    )
    use = f"python -m agi_core synthesize --run {arguments.run} --head {arguments.out} --help"
    print(f"the last layer of all {count} subjects is in {arguments.out}; use it: {use}")


def _evaluate(arguments: argparse.Namespace) -> None:
    """score a run, or any folder of synthetic volumes, against real ones"""
    from agi_core.host import atomic
    from agi_core.host.device import open_device
    from agi_core.report.evaluation_page import write_page
    from agi_core.scoring.evaluation import TABLE_NAME, evaluate, text_of, write_tables
    from agi_core.scoring.pairs import find_pairs
    from agi_core.segmentation.visits import named_scans

    data_dir, synthetic_dir, layout = arguments.data.resolve(), arguments.synthetic, arguments.layout
    if arguments.run is not None and arguments.target is not None:
        raise ConfigError("a run has one target: leave --target out, or give a folder with --synthetic")
    if arguments.run is None and layout is None:
        raise ConfigError(f"how do the files name scans? Pass --layout {', '.join(LAYOUTS)}")
    config = None if arguments.run is None else run_folder.open_scenario(arguments.run)
    device = open_device(arguments.device, threads=arguments.threads)
    out_dir = arguments.out or Path("evaluations") / time.strftime("%Y-%m-%d-%H%M%S")
    segmenter = None
    if arguments.segmenter is not None:
        from agi_core.segmentation.segmenter import read_segmenter

        segmenter = read_segmenter(arguments.segmenter)
    left_out: list[str] = []
    notes: list[str] = []
    intervals = None
    with atomic.new_folder(out_dir) as new_dir, Progress(transient=True, disable=not sys.stdout.isatty()) as live:

        def following(what: str) -> Callable[[int, int], None]:
            bar = live.add_task(what, total=None)
            return lambda done, total: live.update(bar, completed=done, total=total)

        if config is not None:
            from agi_core.data.scans import Scans
            from agi_core.network import Network
            from agi_core.run.checkpoint import trained_weights
            from agi_core.scoring.made_by_run import make_volumes

            network = Network(config, device=device)
            network.load(trained_weights(arguments.run, best=arguments.weights == "best"))
            layout, synthetic_dir = layout or config.data.layout, new_dir / "volumes"
            scans, made = Scans(data_dir, layout, register=config.data.register), following("making volumes")
            left_out, notes, intervals = make_volumes(
                network, scans, synthetic_dir, config=config, run_dir=arguments.run, on_visit=made
            )
        pairs, unpaired = find_pairs(data_dir, synthetic_dir, layout=layout, target=arguments.target, left_out=left_out)
        evaluation = evaluate(
            pairs,
            notes=[*notes, *unpaired],
            percentiles=arguments.run is not None,
            segmenter=segmenter,
            intervals=intervals,
            on_pair=following("scoring"),
        )
        write_tables(new_dir, evaluation, of=str(arguments.run or arguments.synthetic))
        subject_ids = {subject for folder in (data_dir, synthetic_dir) for subject, *_ in named_scans(folder, layout)}
        page_path = write_page(new_dir, evaluation, subject_ids=subject_ids)
    print(text_of(evaluation))
    print(f"per subject: {out_dir / TABLE_NAME}; pictures: {out_dir / page_path.name}")


def _segment(arguments: argparse.Namespace) -> None:
    """train a small segmentation network on real scans, for evaluate --segmenter"""
    from agi_core.host.device import open_device
    from agi_core.segmentation.segmenter import SegmenterSettings
    from agi_core.segmentation.training import train_segmenter

    open_device("cpu", threads=arguments.threads)
    settings = SegmenterSettings(steps=arguments.steps, seed=arguments.seed)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as live:
        bar = live.add_task("reading scans", total=None)

        def show(done: int, total: int, loss: float) -> None:
            live.update(bar, description=f"loss {loss:.3f}", completed=done, total=total)

        segmenter, visits = train_segmenter(arguments.train.resolve(), settings, on_step=show)
    segmenter.write(arguments.out)
    print(f"segmentation network {segmenter.hash} in {arguments.out}: {len(visits)} visits, {settings.steps} steps")
    print("use it: python -m agi_core evaluate --segmenter", arguments.out, "--help")


def _export(arguments: argparse.Namespace) -> None:
    """write a run's model as one zip (a MONAI bundle), for hospitals that use it"""
    from agi_core.export.export import BEGINNING, export

    print(BEGINNING, flush=True)
    print(export(arguments.run, arguments.out, best=arguments.weights == "best"))


def _privacy_plan(arguments: argparse.Namespace) -> None:
    """noise, lots and signal of a privacy budget, before anyone trains"""
    from agi_core.privacy.plan import plan_privacy
    from agi_core.privacy.trainable import PARTS

    overrides = {"rounds": arguments.rounds, "training.local_steps": arguments.local_steps}
    names = ("epsilon", "delta", "lot_rate", "trainable")
    overrides |= {f"privacy.{name}": getattr(arguments, name) for name in names}
    task = load_config(None, overrides=overrides).task
    plan = plan_privacy(task, subjects=arguments.subjects, target_epsilon=arguments.epsilon)
    print(
        f"{arguments.subjects} training subjects, {task.rounds} rounds of {task.training.local_steps} steps,"
        f" epsilon {arguments.epsilon:g} at delta {task.privacy.delta:g}\n\n"
        f"  noise multiplier   {plan.noise_multiplier:.3f}\n"
        f"  lot size           {plan.lot_size:.1f} expected ({task.privacy.lot_rate:g} of the subjects)\n"
        f"  steps              {plan.steps}\n"
        f"  epsilon            {plan.epsilon:.2f} by PRV, {plan.epsilon_rdp:.2f} by RDP\n\n"
        "noise over signal     parameters   one step   whole run"
    )
    for part in plan.parts:
        print(f"  {part.part:<20}{part.parameters:>10,}{part.per_step:>11.1f}{part.whole_run:>12.2f}")
    trained = plan.trained.part
    print(f"\ntrained: {trained} ({PARTS[trained]}); signal over noise, whole run: {plan.signal_to_noise:.2f}")
    print(plan.advice)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agi_core",
        description="Built-in data, pre-training, use and evaluation of a trained model, and planning of privacy.",
    )
    commands = parser.add_subparsers(
        required=True,
        metavar="phantom | pretrain | synthesize | evaluate | segment | calibrate | adapt | export | privacy-plan",
    )

    def add(name: str, command: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=command.__doc__)
        parser.set_defaults(command=command)
        return parser

    def add_use(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--weights", choices=("last", "best"), default="last", help="which model (%(default)s)")
        parser.add_argument("--threads", type=count, default=1, help="CPU threads (%(default)s)")
        parser.add_argument(
            "--device",
            choices=("auto", "cpu", "cuda"),
            default="auto",
            help="where the model runs; auto: on a GPU where there is one (%(default)s)",
        )

    phantom = add("phantom", _phantom)
    phantom.add_argument("--layout", choices=("ixi", "brats"), default="ixi", help="whose names and sequences (ixi)")
    phantom.add_argument("--sites", default="Guys:14,HH:10,IOP:6", help="subjects per site (%(default)s)")
    phantom.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    phantom.add_argument("--seed", type=seed, default=0, help="the same seed gives the same data (%(default)s)")
    phantom.add_argument("--isotropic", action="store_true", help="3-D acquisition with cubic voxels")

    pretraining = add("pretrain", _pretrain)
    pretraining.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    pretraining.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of a run: data.dir, data.layout, scenario, and those of model, grid and training",
    )

    synthesis = add("synthesize", _synthesize)
    model = synthesis.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, help="folder of the run")
    model.add_argument("--model", type=Path, metavar="ZIP", help="a model that export has written")
    synthesis.add_argument(
        "--source",
        type=named_path("MODALITY=FILE, for example T1=scan.nii.gz, or MODALITY=FOLDER of a DICOM series"),
        action="append",
        metavar="MODALITY=PATH",
        help="one per scan of a subject: a NIfTI file, or a folder with one DICOM series (extra dicom)",
    )
    synthesis.add_argument("--data", type=Path, metavar="DIR", help="complete the subjects of a whole folder")
    synthesis.add_argument("--target", metavar="MODALITY", help="what to make (all that is missing)")
    synthesis.add_argument(
        "--out",
        type=Path,
        required=True,
        help="NIfTI file to write, .nii or .nii.gz, folder for a DICOM series, or folder for all that is missing",
    )
    synthesis.add_argument(
        "--layout", choices=[*LAYOUTS], help="how --data names scans; with --source, bids: derivatives in --out"
    )
    synthesis.add_argument("--mark", action="store_true", help="write SYNTHETIC into the pixels of a DICOM series too")
    synthesis.add_argument("--grid", metavar="MODALITY", help="source whose grid the output has (the run's reference)")
    whose = synthesis.add_mutually_exclusive_group()
    whose.add_argument(
        "--head",
        type=Path,
        metavar="PATH",
        help="the site's own weights, a file or all of a folder: state_dir/heads or RUN/sites/NAME/heads (common ones)",
    )
    whose.add_argument(
        "--style", metavar="SITE", help="a training site's own last layer, if it shares it, where there is no target"
    )
    synthesis.add_argument(
        "--uncertainty", type=Path, metavar="FILE", help="NIfTI file to write: the absolute error that is expected"
    )
    synthesis.add_argument(
        "--strict", action="store_true", help="exit code 3 where the sources are unlike those that the model knows"
    )
    synthesis.add_argument(
        "--batch-size", type=count, default=8, help="slices at a time, in 2-D; bounds memory (%(default)s)"
    )
    add_use(synthesis)

    calibration = add("calibrate", _calibrate)
    calibration.add_argument("--run", type=Path, required=True, help="folder of the run; what is learnt is kept there")
    calibration.add_argument("--data", type=Path, help="folder with subjects that have all modalities (the run's own)")
    calibration.add_argument("--layout", choices=[*LAYOUTS], help="how --data names scans (the run's)")
    calibration.add_argument("--head", type=Path, metavar="FILE", help="the last layer to calibrate (the common one)")
    add_use(calibration)
    calibration.add_argument(
        "--cache-dir", type=Path, default=Path(".cache/volumes"), help="folder of prepared scans (%(default)s)"
    )

    adaptation = add("adapt", _adapt)
    adaptation.add_argument("--run", type=Path, required=True, help="folder of the run")
    adaptation.add_argument("--data", type=Path, required=True, help="folder with subjects that have all modalities")
    adaptation.add_argument("--layout", choices=[*LAYOUTS], help="how it names scans (the run's)")
    adaptation.add_argument("--out", type=Path, required=True, help="file to write, for synthesize --head")
    add_use(adaptation)
    adaptation.add_argument(
        "--cache-dir", type=Path, default=Path(".cache/volumes"), help="folder of prepared scans (%(default)s)"
    )

    evaluation = add("evaluate", _evaluate)
    made_by = evaluation.add_mutually_exclusive_group(required=True)
    made_by.add_argument("--run", type=Path, help="folder of a run, whose model makes the volumes")
    made_by.add_argument("--synthetic", type=Path, metavar="DIR", help="folder of volumes that anything has made")
    evaluation.add_argument("--data", type=Path, required=True, help="folder with the real scans, and seg files")
    evaluation.add_argument("--layout", choices=[*LAYOUTS], help="how both folders name scans (the run's)")
    evaluation.add_argument("--target", metavar="MODALITY", help="what to score (all that is in --synthetic)")
    evaluation.add_argument("--segmenter", type=Path, metavar="FILE", help="segment with this network of `segment`")
    evaluation.add_argument("--out", type=Path, help="a folder that does not exist yet (evaluations/DATE-TIME)")
    add_use(evaluation)

    segmentation = add("segment", _segment)
    segmentation.add_argument("--train", type=Path, required=True, metavar="DIR", help="training subjects, as in BraTS")
    segmentation.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    segmentation.add_argument("--steps", type=count, default=1500, help="of training (%(default)s)")
    segmentation.add_argument("--seed", type=seed, default=0, help="the same seed gives the same network (%(default)s)")
    segmentation.add_argument("--threads", type=count, default=1, help="CPU threads (%(default)s)")

    exporting = add("export", _export)
    exporting.add_argument("--run", type=Path, required=True, help="folder of the run")
    exporting.add_argument("--out", type=Path, required=True, help="zip to write")
    exporting.add_argument("--weights", choices=("last", "best"), default="last", help="which model (%(default)s)")

    plan = add("privacy-plan", _privacy_plan)
    plan.add_argument("--subjects", type=count, required=True, help="training subjects of the site")
    plan.add_argument("--epsilon", type=positive, required=True, help="the site's budget for the whole run")
    plan.add_argument("--rounds", type=count, help="as in a run")
    plan.add_argument("--local-steps", type=count, help="training.local_steps of a run")
    plan.add_argument("--lot-rate", type=positive, help="privacy.lot_rate of a run")
    plan.add_argument("--trainable", choices=get_args(Trainable), help="privacy.trainable of a run")
    plan.add_argument("--delta", type=positive, help="privacy.delta of a run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
