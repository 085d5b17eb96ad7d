"""The site file: what the client of one hospital must know of its machine, its data, its rules and, in a deployment,
its coordinator."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agi_core.config import structured
from agi_core.config.schema import Registration, check_threads
from agi_core.config.structured import MISSING
from agi_core.data.scans import Scans
from agi_core.errors import ConfigError
from agi_core.layouts import LayoutName
from agi_core.names import is_site_name
from client.site.policy import Policy, PrivacyBudget, SitePrivacy, check_names, limit, validate_rules


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """Where the scans are, and which of them are used.

    Attributes:
        dir: folder of scans; it is only ever read.
        layout: how the folder is laid out.
        sites: table that maps subjects to hospitals; who is not in it is left out. None = all are this site's.
        exclude: ids of subjects that are left out.
        subjects: ids of the subjects that are used; None = all. A simulated site lists its share.
        test_subjects: ids of subjects that are only ever tested on, beside those that the split chooses.
        modalities: those that the site offers to a run over a vocabulary, which is public; None = all that are found.
            They are two or more. A subject may then lack some of them, and the site takes part in nothing that needs
            others.
        register: `rigid` lays every source on the run's reference first (`agi_core.data.registration`).
    """

    dir: str = MISSING
    layout: LayoutName = MISSING
    sites: str | None = None
    exclude: tuple[str, ...] = ()
    subjects: tuple[str, ...] | None = None
    test_subjects: tuple[str, ...] = ()
    modalities: tuple[str, ...] | None = None
    register: Registration = "none"

    @property
    def scans(self) -> Scans:
        """The folder, for those who read it. Its paths are absolute when the site file was read from a disk."""
        sites = Path(self.sites) if self.sites else None
        return Scans(Path(self.dir), self.layout, sites, self.exclude, self.register, one_site=True)


@dataclass(frozen=True)
class CoordinatorAddress:
    """Where the coordinator listens (HOST:PORT), the file of the certificate authority (PEM) that vouches for it, and
    the public key of what it asks (an OpenSSH line; see `agi_core.signatures`)."""

    address: str = MISSING
    ca_file: str = MISSING
    public_key: str = MISSING


@dataclass(frozen=True, kw_only=True)
class Site:
    """One site.

    Attributes:
        site: its name in the federation.
        cache_dir: folder of prepared scans, which are patient data.
        cache_gb: its quota in 10^9 bytes; what was not used for longest is dropped. None = no quota.
        device: auto, cpu, cuda or cuda:1.
        threads: CPU threads of the training; up to four of them prepare scans.
        compile: whether training is compiled first (`agi_core.network`); never private training.
        deterministic: whether a GPU gives the same results bit for bit, and is slower.
        segmenter: file of a segmentation network (`python -m agi_core segment`), for runs that ask for that one: the
            final test then has its Dice. None = those figures are left out.
        privacy: rules of private training; None = the site does not train privately.
        state_dir: folder of what must survive restarts; "" = beside the site file, with its name without the suffix.
    """

    site: str = MISSING
    data: SiteData = field(default_factory=SiteData)
    cache_dir: str = MISSING
    cache_gb: float | None = None
    device: str = "auto"
    threads: int = 1
    compile: bool = False
    deterministic: bool = False
    segmenter: str | None = None
    privacy: SitePrivacy | None = None
    policy: Policy = field(default_factory=Policy)
    state_dir: str = ""

    @property
    def cache_bytes(self) -> int | None:
        """The quota of the cache; None = no quota."""
        return None if self.cache_gb is None else round(self.cache_gb * 1e9)


@dataclass(frozen=True, kw_only=True)
class DeployedSite(Site):
    """A site that joins a coordinator. `key_file` is its private key. On the loopback port `runtime_port` the node
    hands requests to the runner, and on the next port it says whether it is alive."""

    state_dir: str = MISSING
    cache_gb: float | None = 100.0
    coordinator: CoordinatorAddress = field(default_factory=CoordinatorAddress)
    key_file: str = MISSING
    runtime_port: int = 9094

    @property
    def health_port(self) -> int:
        """The loopback port of the node's gRPC health service."""
        return self.runtime_port + 1


UNLIMITED = ("cache_gb", "policy.answers_per_model", "policy.answers_per_day")
"""The settings of a deployed site that may be null: any number."""

S = TypeVar("S", bound=Site)
B = TypeVar("B", bound=PrivacyBudget)


def read_site(path: Path) -> Site:
    """The site file at `path`: a `DeployedSite` when it names a coordinator. Its paths are absolute; in the file,
    relative ones start at the file's folder.

    Raises:
        ConfigError: missing or unreadable file, unknown or missing setting, value out of range.
    """
    settings = _load(path)
    return _read(path, settings, DeployedSite if "coordinator" in settings else Site)


def read_deployed_site(path: Path) -> DeployedSite:
    """The site file at `path`, with everything that a deployment needs. Raises ConfigError as `read_site` does."""
    return _read(path, _load(path), DeployedSite)


def is_address(text: str) -> bool:
    """Whether the text is HOST:PORT, for example agi.example.org:443 or [::1]:443."""
    found = re.fullmatch(r"(?:[^\s:/]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", text)
    return found is not None and 0 < int(found[1]) < 65536


def edit_stamp(path: Path) -> tuple[int, ...] | None:
    """Another value after every edit of the file, even one that keeps its size and gives it its old time; None while
    the file is away."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ctime_ns, status.st_ino, status.st_size


def to_yaml(site: Site) -> str:
    """The site file's text."""
    return structured.to_yaml(site)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"site file {path} does not exist; check the name, or write one with --init")
    return structured.read_file(path, kind="site file")


def _read(path: Path, settings: dict[str, Any], kind: type[S]) -> S:
    if kind is DeployedSite:
        _check_filled_in(path, settings)
    try:
        site = structured.typed(kind, settings)
    except ConfigError as error:
        raise ConfigError(f"site file {path}, {error}") from None
    policy = dataclasses.replace(site.policy, settings={name: limit(v) for name, v in site.policy.settings.items()})
    site = dataclasses.replace(site, policy=policy)
    if site.cache_gb is not None and not 0 < site.cache_gb < math.inf:
        raise ConfigError(f"site file {path}: cache_gb={site.cache_gb} must be a positive number; null is no quota")
    try:
        check_threads(site.threads)
        for name in ("exclude", "subjects", "test_subjects", "modalities"):
            check_names(f"data.{name}", getattr(site.data, name))
        offered = site.data.modalities
        if offered is not None and len({*offered}) < 2:
            told = ", ".join(offered) or "none"
            raise ConfigError(f"data.modalities offers {told}; a site needs two to take part, or leave the line out")
        validate_rules(site.policy, site.privacy)
    except ConfigError as error:
        raise ConfigError(f"site file {path}: {error}") from None
    if isinstance(site, DeployedSite):
        _validate(path, site)
    return _with_absolute_paths(site, path.resolve())


def _check_filled_in(path: Path, settings: dict[str, Any]) -> None:
    """Whoever leaves `privacy:` empty hardly means a site without privacy, as a file by `to_yaml` does with null."""
    for name, value in structured.flat(settings):
        if value is None and name not in UNLIMITED:
            raise ConfigError(f"site file {path}: {name} is empty; fill it in, or take the line out")


def _validate(path: Path, site: DeployedSite) -> None:
    if not is_site_name(site.site):
        raise ConfigError(f"site file {path}: site: {site.site!r} must be 1 to 64 letters (a to z), digits, - and _")
    if not is_address(site.coordinator.address):
        raise ConfigError(
            f"site file {path}: coordinator.address={site.coordinator.address} must be HOST:PORT,"
            " for example agi.example.org:443"
        )
    if not 0 < site.runtime_port < 65535:
        raise ConfigError(f"site file {path}: runtime_port={site.runtime_port} must lie between 1 and 65534")


def _with_absolute_paths(site: S, path: Path) -> S:
    def absolute(text: str) -> str:
        return os.path.normpath(path.parent / text)

    def with_absolute_ledger(budget: B) -> B:
        return dataclasses.replace(budget, ledger=absolute(budget.ledger), ledger_head=absolute(budget.ledger_head))

    data = site.data
    data = dataclasses.replace(data, dir=absolute(data.dir), sites=absolute(data.sites) if data.sites else None)
    state_dir = absolute(site.state_dir) if site.state_dir else str(path.with_suffix(""))
    segmenter = absolute(site.segmenter) if site.segmenter else None
    site = dataclasses.replace(
        site, data=data, cache_dir=absolute(site.cache_dir), state_dir=state_dir, segmenter=segmenter
    )
    if privacy := site.privacy:
        validation = with_absolute_ledger(privacy.validation) if privacy.validation else None
        privacy = dataclasses.replace(with_absolute_ledger(privacy), validation=validation)
        site = dataclasses.replace(site, privacy=privacy)
    if not isinstance(site, DeployedSite):
        return site
    coordinator = dataclasses.replace(site.coordinator, ca_file=absolute(site.coordinator.ca_file))
    return dataclasses.replace(site, key_file=absolute(site.key_file), coordinator=coordinator)
