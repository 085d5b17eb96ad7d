"""Built-in data where a run has no scans of its own, made on first use."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agi_core.config.schema import DataConfig, RunConfig
from agi_core.data.phantom.anatomy import ANATOMIES
from agi_core.data.phantom.tree import MARKER_NAME, VERSION, parse_sites, phantom_matches, write_phantom
from agi_core.errors import ConfigError
from agi_core.run import progress


@dataclass(frozen=True)
class BuiltIn:
    """One kind of built-in data: how its folders are called, its seed, and whether that of 3-D runs is isotropic."""

    name: str
    seed: int
    isotropic_volumes: bool = False


SIMULATED = BuiltIn("phantom", seed=0, isotropic_volumes=True)  # 5 mm slices would leave a volume little to show
PUBLIC = BuiltIn("public", seed=1)


def with_built_in_data(
    config: RunConfig, kind: BuiltIn, *, work_dir: Path, on_making: Callable[[Path], None] = lambda data_dir: None
) -> RunConfig:
    """The configuration with a data folder: its own, or built-in data of `data.phantom_sites` in `work_dir`.

    A run that goes on names the built-in folder, which is made again where it is gone. The generator's version is part
    of the folder's name, so data that an earlier release has made stays beside it.

    Args:
        on_making: called with the folder when the data has to be made.

    Raises:
        ConfigError: there is no built-in data of the configuration's layout, it has a table of sites of its own, or
            none of the built-in anatomies is `data.unseen_anatomy`.
    """
    layout, own = config.data.layout, config.data.dir
    if layout == "bids":
        if own is None:
            raise ConfigError("there is no built-in data in the layout bids; name a folder of scans with data.dir")
        return config
    if own is None and config.data.sites is not None:
        raise ConfigError(f"data.sites={config.data.sites} needs scans of your own; name their folder with data.dir")
    sites = parse_sites(config.data.phantom_sites)
    isotropic = kind.isotropic_volumes and config.model.dims == 3
    kinds = [f"{kind.name}{VERSION}", layout, *(["isotropic"] if isotropic else [])]
    data_dir = work_dir / "-".join([*kinds, folder_name(sites)])
    if own not in (None, str(data_dir)):
        return config
    if (unseen := config.data.unseen_anatomy) not in (None, *ANATOMIES):
        raise ConfigError(f"data.unseen_anatomy={unseen}: the data has {', '.join(ANATOMIES)}; choose one of them")
    if not phantom_matches(data_dir, layout=layout, sites=sites, seed=kind.seed, isotropic=isotropic):
        on_making(data_dir)

        def on_subject(done: int, total: int) -> None:
            progress.report(progress.Step("making synthetic data", "", done, total))

        write_phantom(data_dir, layout=layout, sites=sites, seed=kind.seed, isotropic=isotropic, on_subject=on_subject)
    site_map = str(data_dir / "partitioning.csv") if layout == "brats" else None
    return replace(config, data=replace(config.data, dir=str(data_dir), sites=site_map))


def folder_name(sites: Mapping[str, int]) -> str:
    """Guys14-HH10; with a point behind a name that ends in a digit, so that no other sites have this name."""
    return "-".join(f"{name}{'.' if name[-1].isdigit() else ''}{count}" for name, count in sites.items())


def origin(data: DataConfig) -> tuple[bool, int | None]:
    """(whether the scans are built-in synthetic data, how many brains that data is made from)."""
    marker = Path(str(data.dir)) / MARKER_NAME
    values = json.loads(marker.read_bytes()) if marker.is_file() else {}
    return bool(values.get("synthetic", False)), values.get("anatomies")
