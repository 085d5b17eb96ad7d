"""The site file: what one hospital's client needs to know about its own machine and data."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agi_core.config import Layout
from agi_core.errors import ConfigError


@dataclass(frozen=True)
class SiteData:
    """Where the scans are. `subjects` None = every subject of the tree; a simulated site lists its share."""

    dir: str = MISSING
    layout: Layout = MISSING
    sites: str | None = None
    exclude: list[str] = field(default_factory=list)
    subjects: list[str] | None = None


@dataclass(frozen=True)
class SitePrivacy:
    """A site with it trains privately or not at all. `ledger` and the copy of its head are files in different folders;
    `subjects` is the number that the site makes public: its weight in the average and the denominator of its steps."""

    ledger: str = MISSING
    ledger_head: str = MISSING
    subjects: int = MISSING


@dataclass(frozen=True)
class Site:
    """One site: its name in the federation, its data, its cache folder, its device and its privacy."""

    site: str = MISSING
    data: SiteData = field(default_factory=SiteData)
    cache_dir: str = MISSING
    device: str = "auto"
    threads: int = 1
    privacy: SitePrivacy | None = None


def read_site(path: Path) -> Site:
    """The site file at `path`.

    Raises:
        ConfigError: missing or unreadable file, unknown or missing setting.
    """
    if not path.is_file():
        raise ConfigError(f"site file {path} does not exist")
    try:
        site: Site = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Site), OmegaConf.load(path)))  # type: ignore[assignment]
    except (OmegaConfBaseException, OSError, ValueError, TypeError, YAMLError) as error:
        key = getattr(error, "full_key", None)
        place = f"{path}, setting {key}" if key else path
        raise ConfigError(f"site file {place}: {str(error).splitlines()[0]}") from None
    return site


def to_yaml(site: Site) -> str:
    """The site file's text."""
    return OmegaConf.to_yaml(OmegaConf.structured(site))
