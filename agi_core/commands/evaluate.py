"""`python -m agi_core evaluate`: synthetic volumes against real ones."""

import argparse
import time
from pathlib import Path

from agi_core.commands.bars import bars
from agi_core.commands.models import open_models
from agi_core.data.scans import Scans
from agi_core.errors import ConfigError
from agi_core.host import atomic
from agi_core.host.device import open_device
from agi_core.layouts import LAYOUTS
from agi_core.report.evaluation_page import write_page
from agi_core.run import run_folder
from agi_core.scoring.evaluation import TABLE_NAME, evaluate, text_of, write_tables
from agi_core.scoring.made_by_run import make_volumes
from agi_core.scoring.pairs import find_pairs
from agi_core.segmentation.labels import check_labels
from agi_core.segmentation.segmenter import read_segmenter
from agi_core.segmentation.visits import named_scans


def run(arguments: argparse.Namespace) -> None:
    """Score them, and write tables and a page."""
    data_dir, synthetic_dir, layout = arguments.data.resolve(), arguments.synthetic, arguments.layout
    config = None if arguments.run is None else run_folder.open_scenario(arguments.run)
    if synthetic_dir is None and arguments.target is not None:
        raise ConfigError("a model has one target: leave --target out, or give a folder with --synthetic")
    if config is None and layout is None:
        raise ConfigError(f"how do the files name scans? Pass --layout {', '.join(LAYOUTS)}")
    models = open_models(arguments) if synthetic_dir is None else None
    if models is None:
        open_device(arguments.device, threads=arguments.threads)
    out_dir = arguments.out or Path("evaluations") / time.strftime("%Y-%m-%d-%H%M%S")
    scans = (
        Scans(data_dir, layout, one_site=True) if config is None else Scans.like(config.data, data_dir, layout=layout)
    )
    if models is not None:
        scans.check_apart(out_dir)
    segmenter = None if arguments.segmenter is None else read_segmenter(arguments.segmenter)
    target, left_out, notes, intervals = arguments.target, list[str](), list[str](), None
    with atomic.new_folder(out_dir) as new_dir, bars() as bar:
        if models is not None:
            layout, synthetic_dir = scans.layout, new_dir / "volumes"
            (target,) = models.targets
            left_out, notes, intervals = make_volumes(models, scans, synthetic_dir, on_visit=bar("making volumes"))
        pairs, unpaired = find_pairs(data_dir, synthetic_dir, layout=layout, target=target, left_out=left_out)
        if models is None:
            notes = check_labels({pair.seg: pair.real for pair in pairs if pair.seg})
        evaluation = evaluate(
            pairs,
            notes=[*notes, *unpaired],
            percentiles=models is not None,
            segmenter=segmenter,
            intervals=intervals,
            on_pair=bar("scoring"),
        )
        write_tables(new_dir, evaluation, of=str(arguments.run or arguments.model or arguments.synthetic))
        if segmenter is not None:
            segmenter.write(new_dir / arguments.segmenter.name)
        subject_ids = {subject for folder in (data_dir, synthetic_dir) for subject, *_ in named_scans(folder, layout)}
        page_path = write_page(new_dir, evaluation, subject_ids=subject_ids)
    print(text_of(evaluation))
    print(f"per subject: {out_dir / TABLE_NAME}; pictures: {out_dir / page_path.name}")
