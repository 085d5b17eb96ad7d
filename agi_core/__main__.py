"""`python -m agi_core`: built-in data, pre-training, use and evaluation of a trained model, and planning of privacy.

Each command is a module of `agi_core.commands`, and only the one that was typed is imported: torch takes seconds, and
`--help` has no use for it.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import get_args

from agi_core.config.schema import Trainable
from agi_core.host.command_line import count, named_path, positive, run_command, seed, terminable
from agi_core.layouts import LAYOUTS


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 the user's mistake, 130 interrupted, 143 terminated."""
    arguments = _parser().parse_args(argv)
    name = arguments.command.replace("-", "_")
    with terminable():  # so that temporary volumes, which are patient data, are removed
        return run_command(lambda: import_module(f"agi_core.commands.{name}").run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m agi_core",
        description="Built-in data, pre-training, use and evaluation of a trained model, and planning of privacy.",
    )
    commands = parser.add_subparsers(
        required=True,
        dest="command",
        metavar="phantom | pretrain | synthesize | evaluate | segment | calibrate | adapt | export | privacy-plan",
    )

    def add_use(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--weights", choices=("last", "best"), default="last", help="which model (%(default)s)")
        parser.add_argument("--threads", type=count, default=1, help="CPU threads (%(default)s)")
        parser.add_argument(
            "--device",
            choices=("auto", "cpu", "cuda"),
            default="auto",
            help="where the model runs; auto: on a GPU where there is one (%(default)s)",
        )

    phantom = commands.add_parser("phantom", help="write built-in synthetic data as a real NIfTI tree")
    phantom.add_argument("--layout", choices=("ixi", "brats"), default="ixi", help="whose names and sequences (ixi)")
    phantom.add_argument("--sites", default="Guys:14,HH:10,IOP:6", help="subjects per site (%(default)s)")
    phantom.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    phantom.add_argument("--seed", type=seed, default=0, help="the same seed gives the same data (%(default)s)")
    phantom.add_argument("--isotropic", action="store_true", help="3-D acquisition with cubic voxels")

    pretraining = commands.add_parser(
        "pretrain", help="train on public data (default: built-in) without privacy, as a start for private runs"
    )
    pretraining.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    pretraining.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of a run: data.dir, data.layout, scenario, and those of model, grid and training",
    )

    synthesis = commands.add_parser(
        "synthesize",
        help="make what is missing, of one subject or of a whole folder, with a run's models or an exported one",
    )
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
    synthesis.add_argument(
        "--layout", choices=[*LAYOUTS], help="how --data names scans; with --source, bids: derivatives in --out"
    )
    synthesis.add_argument("--target", metavar="MODALITY", help="what to make (all that is missing)")
    synthesis.add_argument(
        "--out",
        type=Path,
        required=True,
        help="NIfTI file to write, .nii or .nii.gz, folder for a DICOM series, or folder for all that is missing",
    )
    synthesis.add_argument("--mark", action="store_true", help="write SYNTHETIC into the pixels of a DICOM series too")
    synthesis.add_argument("--grid", metavar="MODALITY", help="source whose grid the output has (the run's reference)")
    whose = synthesis.add_mutually_exclusive_group()
    whose.add_argument(
        "--head",
        type=Path,
        metavar="PATH|SITE",
        help="a site's own weights: a file, a folder of them, a site's state_dir, or the name of a site of a simulation"
        " (the common ones)",
    )
    whose.add_argument(
        "--style", metavar="SITE", help="the last layer that this training site shares, for whoever has no target"
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

    calibration = commands.add_parser(
        "calibrate",
        help="learn from complete subjects how far to trust a run's volumes, for synthesize --uncertainty and --strict",
    )
    calibration.add_argument("--run", type=Path, required=True, help="folder of the run; what is learnt is kept there")
    calibration.add_argument("--data", type=Path, help="folder with subjects that have all modalities (the run's own)")
    calibration.add_argument("--layout", choices=[*LAYOUTS], help="how --data names scans (the run's)")
    calibration.add_argument(
        "--head",
        type=Path,
        metavar="PATH|SITE",
        help="the site's own weights to calibrate, as of synthesize (the common ones)",
    )
    add_use(calibration)
    calibration.add_argument(
        "--cache-dir", type=Path, default=Path(".cache/volumes"), help="folder of prepared scans (%(default)s)"
    )

    adaptation = commands.add_parser(
        "adapt", help="solve a last layer for a hospital that took no part, on its own subjects"
    )
    adaptation.add_argument("--run", type=Path, required=True, help="folder of the run")
    adaptation.add_argument("--data", type=Path, required=True, help="folder with subjects that have all modalities")
    adaptation.add_argument("--layout", choices=[*LAYOUTS], help="how it names scans (the run's)")
    adaptation.add_argument("--out", type=Path, required=True, help="file to write, for synthesize --head")
    add_use(adaptation)
    adaptation.add_argument(
        "--cache-dir", type=Path, default=Path(".cache/volumes"), help="folder of prepared scans (%(default)s)"
    )

    evaluation = commands.add_parser(
        "evaluate", help="score a run, an exported model, or any folder of synthetic volumes, against real ones"
    )
    made_by = evaluation.add_mutually_exclusive_group(required=True)
    made_by.add_argument("--run", type=Path, help="folder of a run, whose model makes the volumes")
    made_by.add_argument("--model", type=Path, metavar="ZIP", help="a model that export has written, in its place")
    made_by.add_argument("--synthetic", type=Path, metavar="DIR", help="folder of volumes that anything has made")
    evaluation.add_argument("--data", type=Path, required=True, help="folder with the real scans, and seg files")
    evaluation.add_argument("--layout", choices=[*LAYOUTS], help="how both folders name scans (the run's)")
    evaluation.add_argument("--target", metavar="MODALITY", help="what to score (all that is in --synthetic)")
    evaluation.add_argument("--segmenter", type=Path, metavar="FILE", help="segment with this network of `segment`")
    evaluation.add_argument("--out", type=Path, help="a folder that does not exist yet (evaluations/DATE-TIME)")
    add_use(evaluation)

    segmentation = commands.add_parser(
        "segment", help="train a small segmentation network on real scans, for evaluate --segmenter"
    )
    segmentation.add_argument("--train", type=Path, required=True, metavar="DIR", help="training subjects, as in BraTS")
    segmentation.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    segmentation.add_argument("--steps", type=count, default=1500, help="of training (%(default)s)")
    segmentation.add_argument("--seed", type=seed, default=0, help="the same seed gives the same network (%(default)s)")
    segmentation.add_argument("--threads", type=count, default=1, help="CPU threads (%(default)s)")

    exporting = commands.add_parser(
        "export", help="write a run's model as one zip (a MONAI bundle), for hospitals that use it"
    )
    exporting.add_argument("--run", type=Path, required=True, help="folder of the run")
    exporting.add_argument("--out", type=Path, required=True, help="zip to write")
    exporting.add_argument("--weights", choices=("last", "best"), default="last", help="which model (%(default)s)")

    plan = commands.add_parser("privacy-plan", help="noise, lots and signal of a privacy budget, before anyone trains")
    plan.add_argument("--subjects", type=count, required=True, help="training subjects of the site")
    plan.add_argument("--epsilon", type=positive, required=True, help="the site's budget for the whole run")
    plan.add_argument("--rounds", type=count, help="as in a run")
    plan.add_argument("--local-steps", type=count, help="training.local_steps of a run")
    plan.add_argument("--lot-rate", type=positive, help="privacy.lot_rate of a run")
    parts = [part for part in get_args(Trainable) if part != "adapters"]  # no network of the default model has any
    plan.add_argument("--trainable", choices=parts, help="privacy.trainable of a run")
    plan.add_argument("--delta", type=positive, help="privacy.delta of a run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
