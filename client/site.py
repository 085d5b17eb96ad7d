"""The site file: what one hospital's client needs to know about its own machine, its data and, in deployment, about
its coordinator and its own rules."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agi_core.config import Layout, Register
from agi_core.errors import ConfigError


@dataclass(frozen=True)
class SiteData:
    """Where the scans are. `subjects` None = every subject of the tree; a simulated site lists its share. `register:
    rigid` lays every source on the run's reference before anything else sees it (`agi_core.data.registration`)."""

    dir: str = MISSING
    layout: Layout = MISSING
    sites: str | None = None
    exclude: list[str] = field(default_factory=list)
    subjects: list[str] | None = None
    register: Register = "none"


@dataclass(frozen=True)
class Coordinator:
    """Where the coordinator listens, HOST:PORT, and the certificate authority (PEM) that vouches for it."""

    address: str = MISSING
    ca_file: str = MISSING


@dataclass(frozen=True)
class Policy:
    """The site's own rules; no request can soften them. `max_deadline_s`: longest time given to one request."""

    minimum_subjects: int = 10
    max_deadline_s: int = 3600


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


@dataclass(frozen=True)
class DeployedSite(Site):
    """A site that joins a coordinator. `key_file` is its private key, `runtime_port` the loopback port on which the
    node hands requests to the runner, `state_dir` what must survive restarts."""

    state_dir: str = MISSING
    coordinator: Coordinator = field(default_factory=Coordinator)
    key_file: str = MISSING
    runtime_port: int = 9094
    policy: Policy = field(default_factory=Policy)


S = TypeVar("S", bound=Site)


def read_site(path: Path) -> Site:
    """The site file at `path`: a `DeployedSite` when it names a coordinator. Paths come back absolute; relative ones
    start at the file's folder.

    Raises:
        ConfigError: missing or unreadable file, unknown or missing setting, value out of range.
    """
    settings = _load(path)
    return _read(path, settings, DeployedSite if "coordinator" in settings else Site)


def read_deployed_site(path: Path) -> DeployedSite:
    """The site file at `path`, with everything that a deployment needs. Raises ConfigError as `read_site` does."""
    return _read(path, _load(path), DeployedSite)


def to_yaml(site: Site) -> str:
    """The site file's text."""
    return OmegaConf.to_yaml(OmegaConf.structured(site))


def _load(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError(f"site file {path} does not exist; check the name, or write one with --init")
    try:
        settings = OmegaConf.load(path)
    except (OmegaConfBaseException, OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"site file {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(settings, DictConfig):
        raise ConfigError(f"site file {path} is a list; write one setting per line, for example device: cpu")
    return settings


def _read(path: Path, settings: DictConfig, kind: type[S]) -> S:
    try:
        site: S = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), settings))  # type: ignore[assignment]
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = getattr(error, "full_key", None)
        place = f"{path}, setting {key}" if key else path
        raise ConfigError(f"site file {place}: {str(error).splitlines()[0]}") from None
    if isinstance(site, DeployedSite):
        _validate(path, site)
    return _with_absolute_paths(site, path.resolve().parent)


def _validate(path: Path, site: DeployedSite) -> None:
    host, _, port = site.coordinator.address.rpartition(":")
    if not host or not (port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(
            f"site file {path}: coordinator.address={site.coordinator.address} must be HOST:PORT,"
            " for example agi.example.org:443"
        )
    if not 0 < site.runtime_port < 65536:
        raise ConfigError(f"site file {path}: runtime_port={site.runtime_port} must lie between 1 and 65535")
    for name, value in dataclasses.asdict(site.policy).items():
        if value < 1:
            raise ConfigError(f"site file {path}: policy.{name}={value} must be at least 1")


def _with_absolute_paths(site: S, folder: Path) -> S:
    def absolute(text: str) -> str:
        return os.path.normpath(folder / text)

    data = site.data
    data = dataclasses.replace(data, dir=absolute(data.dir), sites=absolute(data.sites) if data.sites else None)
    site = dataclasses.replace(site, data=data, cache_dir=absolute(site.cache_dir))
    if privacy := site.privacy:
        privacy = dataclasses.replace(
            privacy, ledger=absolute(privacy.ledger), ledger_head=absolute(privacy.ledger_head)
        )
        site = dataclasses.replace(site, privacy=privacy)
    if not isinstance(site, DeployedSite):
        return site
    coordinator = dataclasses.replace(site.coordinator, ca_file=absolute(site.coordinator.ca_file))
    return dataclasses.replace(
        site, state_dir=absolute(site.state_dir), key_file=absolute(site.key_file), coordinator=coordinator
    )
