"""`python -m agi_core`: built-in data, and the use of a trained model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import Progress

from agi_core import run_folder
from agi_core.checkpoint import load_weights
from agi_core.data.phantom import parse_sites, write_phantom
from agi_core.errors import AgiError, ConfigError
from agi_core.inference import synthesize
from agi_core.models.agi_net import build_model
from agi_core.models.model_config import spatial_multiple
from agi_core.scenario import parse_scenario


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
        return 0
    except AgiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; check its permissions and the free space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _phantom(arguments: argparse.Namespace) -> None:
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


def _synthesize(arguments: argparse.Namespace) -> None:
    config = run_folder.open_existing(arguments.run)
    scenario = parse_scenario(config.scenario)
    reference = arguments.grid or config.reference or scenario.sources[0]
    given = [modality for modality, _ in arguments.source]
    if sorted(given) != sorted(scenario.sources) or reference not in scenario.sources:
        files = " ".join(f"--source {modality}=FILE" for modality in scenario.sources)
        raise ConfigError(
            f"the model of {arguments.run} makes {scenario.target} from {', '.join(scenario.sources)}, but was given"
            f" {', '.join(given)} and the grid of {reference}; pass {files}, and --grid one of them or not at all"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no usable GPU; leave --device out")
    model = build_model(config.model, sources=len(scenario.sources))
    weights = load_weights(arguments.run, best=arguments.weights == "best")
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    torch.set_num_threads(arguments.threads)
    spacing = config.grid.spacing_mm
    synthesize(
        model,
        scenario=scenario,
        source_paths=dict(arguments.source),
        reference=reference,
        out_path=arguments.out,
        spacing_mm=(spacing[0], spacing[1], spacing[2]) if spacing else None,
        multiple=spatial_multiple(config.model),
        batch_size=arguments.batch_size,
        device=torch.device(arguments.device),
    )
    print(
        f"synthetic {scenario.target} in {arguments.out}; its values 0 to 1 stand for percentiles 0.5 to 99.5"
        " of a real scan"
    )


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"write a whole number from 1 on, not {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"write a whole number from 0 on, not {text!r}")
    return int(text)


def _source(text: str) -> tuple[str, Path]:
    modality, equals, path = text.partition("=")
    if not (modality and equals and path):
        raise argparse.ArgumentTypeError(f"write MODALITY=FILE, for example T1=scan.nii.gz, not {text!r}")
    return modality, Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agi_core", description="Built-in data, and use of a trained model."
    )
    commands = parser.add_subparsers(required=True, metavar="phantom | synthesize")

    phantom = commands.add_parser("phantom", help="write built-in synthetic data as a real NIfTI tree")
    phantom.set_defaults(command=_phantom)
    phantom.add_argument("--layout", choices=("ixi", "brats"), default="ixi", help="whose names and sequences (ixi)")
    phantom.add_argument("--sites", default="Guys:14,HH:10,IOP:6", help="subjects per site (%(default)s)")
    phantom.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    phantom.add_argument("--seed", type=_seed, default=0, help="the same seed gives the same data (%(default)s)")
    phantom.add_argument("--isotropic", action="store_true", help="3-D acquisition with cubic voxels")

    synthesis = commands.add_parser("synthesize", help="make the missing modality of one subject with a run's model")
    synthesis.set_defaults(command=_synthesize)
    synthesis.add_argument("--run", type=Path, required=True, help="folder of the run")
    synthesis.add_argument(
        "--source",
        type=_source,
        action="append",
        required=True,
        metavar="MODALITY=FILE",
        help="one per source modality",
    )
    synthesis.add_argument("--out", type=Path, required=True, help="NIfTI file to write, .nii or .nii.gz")
    synthesis.add_argument("--grid", metavar="MODALITY", help="source whose grid the output has (the run's reference)")
    synthesis.add_argument("--weights", choices=("last", "best"), default="last", help="which model (%(default)s)")
    synthesis.add_argument("--batch-size", type=_count, default=8, help="slices at a time; bounds memory (%(default)s)")
    synthesis.add_argument("--threads", type=_count, default=1, help="CPU threads (%(default)s)")
    synthesis.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
