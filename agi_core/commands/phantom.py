"""`python -m agi_core phantom`: built-in synthetic data as a tree of NIfTI files."""

import argparse

from agi_core.commands.bars import bars
from agi_core.data.phantom.tree import parse_sites, write_phantom


def run(arguments: argparse.Namespace) -> None:
    """Write the tree."""
    with bars() as bar:
        write_phantom(
            arguments.out,
            layout=arguments.layout,
            sites=parse_sites(arguments.sites),
            seed=arguments.seed,
            isotropic=arguments.isotropic,
            on_subject=bar("making synthetic data"),
        )
    print(f"synthetic {arguments.layout} data in {arguments.out}")
