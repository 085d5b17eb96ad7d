"""What a trained run can make: the one cell of its scenario, or those of its vocabulary, blends among them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from numpy.typing import NDArray

from agi_core import known_range
from agi_core.blend import Blend
from agi_core.cells import BLENDS, folder_of, is_vocabulary, parse_vocabulary, whole_of
from agi_core.config.schema import Task
from agi_core.errors import ConfigError, RunError
from agi_core.export.archive import ERROR_MODEL, KNOWN_RANGE, STYLES
from agi_core.inference import Model
from agi_core.known_range import FEWEST, BlendVerdict, KnownRange, Verdict
from agi_core.names import file_stem, shown
from agi_core.network import CPU, Network
from agi_core.prediction import Predictor
from agi_core.run import error_model, run_folder
from agi_core.run.checkpoint import has_model, trained_weights
from agi_core.run.json_objects import read_json
from agi_core.run.own_weights import own_weights_in, read_own_weights, style_paths
from agi_core.run.study_summary import NOBODY, TRAINED, StudySummary, read_study_summary
from agi_core.scenario import Scenario, parse_scenario
from agi_core.uncertainty import ErrorModel, Interval, WithError

Weights = Mapping[Scenario, float]
Own = Mapping[str, NDArray[Any]]
Reader = Callable[..., Own]
"""network=... -> a site's own weights of it; RunError: they are of another one"""


@dataclass(frozen=True)
class BlendedCell(Blend):
    """A blend as a `Model`, on the grid of the source in whose pose it lies."""

    scenario: Scenario
    reference: str


@dataclass(frozen=True, eq=False)
class RunModels:
    """The models of a run by cell; each is read when it is first asked for.

    Attributes:
        place: the run's folder or zip, for messages.
        modalities: all that a subject can have or lack.
        task: its settings hold for every cell, but for scenario and reference.
        register: whether sources are laid on the reference first.
        networks: how the network of each trained cell is read.
        blends: the weights of trained cells, for each cell that nobody could train.
        extras: of a zip, what else it has; see `agi_core.export.archive.read_archive`.
        finished: whether a run over a vocabulary has ended.
        lost: what the folder lacks of a cell that was there when the run had ended.
    """

    place: Path
    modalities: tuple[str, ...]
    task: Task
    register: bool
    networks: Mapping[Scenario, Callable[[], Network]]
    blends: Mapping[Scenario, Weights] = field(default_factory=dict)
    extras: Mapping[str, bytes] = field(default_factory=dict)
    finished: bool = True
    lost: Mapping[Scenario, str] = field(default_factory=dict)
    _read: dict[Scenario, Network] = field(default_factory=dict, init=False)
    _whose: dict[Scenario, str] = field(default_factory=dict, init=False)  # of trained cells with a site's own weights

    @classmethod
    def of(cls, run_dir: Path, *, best: bool = False, device: torch.device = CPU) -> "RunModels":
        """The last or the best models of a run.

        Raises:
            RunError: there is no such run, or its blends or its summary are damaged.
        """
        config = run_folder.open_existing(run_dir)

        def reader(folder: Path) -> Callable[[], Network]:
            def read() -> Network:
                network = Network(run_folder.open_existing(folder), device=device)
                network.load(trained_weights(folder, best=best))
                return network

            return read

        register = config.data.register == "rigid"
        if not is_vocabulary(config.scenario):
            scenario = parse_scenario(config.scenario)
            return cls(run_dir, scenario.modalities, config, register, {scenario: reader(run_dir)})
        vocabulary = parse_vocabulary(config.scenario)
        folders = {cell: folder_of(run_dir, cell) for cell in vocabulary.cells}
        networks = {cell: reader(folder) for cell, folder in folders.items() if has_model(folder)}
        blends = _read_blends(run_dir / BLENDS, trained=networks)
        summary = read_study_summary(run_dir)
        lost = {} if summary is None else _lost(summary, there={*networks, *blends})
        ended = summary is not None
        return cls(run_dir, vocabulary.modalities, config, register, networks, blends, finished=ended, lost=lost)

    @property
    def any_to_any(self) -> bool:
        """Whether the run is one over a vocabulary."""
        return is_vocabulary(self.task.scenario)

    @property
    def targets(self) -> list[str]:
        """What it may be asked to make."""
        return [*self.modalities] if self.any_to_any else [cell.target for cell in self.networks]

    def cell(self, sources: Collection[str], target: str) -> Scenario | None:
        """The cell of these sources that can be made; None where there is none."""
        ordered = Scenario(tuple(name for name in self.modalities if name in sources), target)
        return next((cell for cell in (*self.networks, *self.blends) if cell == ordered), None)

    def check_target(self, target: str | None) -> None:
        """Raise ConfigError where the run makes others than this one; None = all that it makes."""
        if target not in (None, *self.targets):
            raise ConfigError(f"the run in {self.place} makes {', '.join(self.targets)}, not {target}; choose one")

    def asked(self, given: Sequence[str], target: str | None) -> list[Scenario]:
        """The cells of a target, or of each that is missing, from the given sources.

        Raises:
            ConfigError: they make no cell of the run, and why.
        """
        if not self.any_to_any:
            return [self._only(given, target)]
        known = f"the run in {self.place} is about {', '.join(self.modalities)}"
        for name in (*given, *([] if target is None else [target])):
            if name not in self.modalities:
                raise ConfigError(f"{known}, and {name!r} is none of them; write one of them")
        for name in given:
            if given.count(name) > 1:
                raise ConfigError(f"--source {name} is given {given.count(name)} times; give one file for each")
        if target in given:
            raise ConfigError(f"{target} is to be made, and is among the sources; leave one of the two out")
        targets = [target] if target is not None else [name for name in self.modalities if name not in given]
        if not targets:
            raise ConfigError(f"{known}, and all of them are given; nothing is missing")
        cells = [self.cell(given, name) for name in targets]
        if not any(cells) or (target and None in cells):
            raise ConfigError(f"{self.place}: {self.why_not(given, targets[0])}")
        return [cell for cell in cells if cell is not None]

    def why_not(self, given: Collection[str], target: str) -> str:
        """Why a cell cannot be made, and from what its target can."""
        if not self.any_to_any:
            (scenario,) = self.networks
            return f"no {', '.join(name for name in scenario.sources if name not in given)}"
        others = [",".join(cell.sources) for cell in (*self.networks, *self.blends) if cell.target == target]
        can = f"it can be made from {'; '.join(others)}" if others else "no subset of the run makes it"
        names = ",".join(name for name in self.modalities if name in given)
        if not self.finished:
            return f"the run is not finished, and nothing makes {target} from {names} yet; so far {can}"
        if lost := self.lost.get(Scenario(tuple(names.split(",")), target)):
            return f"there is no {lost}, which the run's summary names; copy the whole folder of the run"
        return f"no site of the run could train {target} from {names}, and it is no blend; {can}"

    def model(self, cell: Scenario) -> Model:
        """What makes a cell. Raises RunError: its folder holds no model."""
        if cell not in self.blends:
            return self.network(cell)
        blend = self._blend(cell)
        return BlendedCell(blend.experts, blend.pose, blend.alignment, cell, cell.sources[blend.pose])

    def _blend(self, cell: Scenario) -> Blend:
        experts = [(self.network(one), weight) for one, weight in self.blends[cell].items()]
        return Blend.of(experts, sources=cell.sources)

    def error_model(self, cell: Scenario) -> ErrorModel:
        """Of a trained cell's network with its present weights. Raises RunError: there is none, or it is damaged."""
        network = self.network(cell)
        if self.place.is_dir():
            own_path = error_model.own_path(self._folder(cell), network=network)
            path = own_path if own_path.is_file() else self._folder(cell) / error_model.NAME
            return error_model.read_error_model(path, network=network)
        if ERROR_MODEL not in self.extras:
            raise RunError(f"{self.place} has no error model; calibrate its run, and export it again")
        return error_model.error_model_in(self.extras[ERROR_MODEL], place=str(self.place), network=network)

    def with_error(self, cell: Scenario) -> tuple[Predictor, Interval]:
        """The model of a cell with its expected error as a second channel, and the interval; of a blend, by its
        experts. Raises RunError: there is no error model, or it is damaged."""
        if cell not in self.blends:
            errors = self.error_model(cell)
            return WithError(self.network(cell), errors.layer), errors.interval
        experts, intervals = zip(*map(self.with_error, self.blends[cell]), strict=True)
        return self._blend(cell).made_by(experts), Interval.of_blend(intervals)

    def verdict(self, cell: Scenario, *, strict: bool = False) -> Verdict | BlendVerdict | None:
        """What compares sources with those that the model of a cell knows, or each expert of a blend; None where a
        model has no known range.

        Raises:
            ConfigError: one has none, and the verdict is wanted. RunError: one is damaged.
        """
        ranges = {one: self.known_range(one) for one in self._trained([cell])}
        lacking = [one for one, known in ranges.items() if known is None]
        if lacking and strict:
            folder = self._folder(lacking[0]) if self.place.is_dir() else "RUN"
            again = "" if self.place.is_dir() else ", and export the run again"
            raise ConfigError(
                f"--strict needs the known range of {' and '.join(map(str, lacking))}, and there is none; make it with"
                f" python -m agi_core calibrate --run {folder} --data DIR, with {FEWEST} complete subjects or"
                f" more{again}"
            )
        known = [(its, self.network(one)) for one, its in ranges.items() if its is not None]
        if lacking:
            return None
        spacing_mm = self.task.spacing_mm
        return BlendVerdict(known, spacing_mm) if cell in self.blends else Verdict(*known[0], spacing_mm)

    def known_range(self, cell: Scenario) -> KnownRange | None:
        """Of a trained cell; None where there is none. Raises RunError: it is damaged."""
        network = self.network(cell)
        if self.place.is_dir():
            return known_range.read_known_range(self._folder(cell) / known_range.NAME, network=network)
        if KNOWN_RANGE not in self.extras:
            return None
        place = f"{KNOWN_RANGE} of {self.place}"
        return known_range.known_range_in(self.extras[KNOWN_RANGE], place=place, network=network)

    def _folder(self, cell: Scenario) -> Path:
        return folder_of(self.place, cell) if self.any_to_any else self.place

    def blend_note(self, cell: Scenario) -> str:
        """Of what a cell is a blend, in a few words; "" where it is none."""
        parts = self.blends.get(cell, {})
        return ", ".join(f"{weight:.0%} from {'+'.join(one.sources)}" for one, weight in parts.items())

    def whose(self, cell: Scenario) -> str:
        """Whose own weights a cell or an expert of it has, in few words; "" for the common ones."""
        return next((self._whose[one] for one in self._trained([cell]) if one in self._whose), "")

    def note(self, cell: Scenario) -> str:
        """The same, and of what the cell is a blend; "" for neither."""
        return "; ".join(filter(None, [self.whose(cell), self.blend_note(cell)]))

    def load_own(self, head: Path, cells: Collection[Scenario]) -> tuple[Path, list[Scenario]]:
        """Put a site's own weights in place of the common ones.

        Args:
            head: a file, or a folder of which all is taken that belongs to networks of these cells: one of such files,
                a site's state folder, or the name of a site of this simulation.

        Returns:
            The file or folder that was read, and the trained cells of these that it has none of.

        Raises:
            RunError: no file belongs to any of them.
        """
        simulated = whole_of(self.place) / "sites" / file_stem(str(head))
        path = simulated if simulated.is_dir() and not head.exists() else head
        path = path / "heads" if (path / "heads").is_dir() else path
        full_path = path.absolute()
        owner = next((one.parent for one in (full_path, full_path.parent) if one.name == "heads"), full_path)
        name = shown(owner.name.removesuffix(".safetensors"))  # in ASCII where it is a site's folder
        name = name if name.isascii() else file_stem(name)
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise RunError(f"{path} holds no weights of a site's own (.safetensors)")
        networks = {one: self.network(one) for one in self._trained(cells)}
        fitting, refusal = _fitting([partial(read_own_weights, file) for file in files], networks)
        if refusal is not None and not fitting:
            raise refusal
        return path, self._load(fitting, networks, whose=f"own weights: {name}")

    def _load(
        self, fitting: Mapping[Scenario, Own], networks: Mapping[Scenario, Network], *, whose: str
    ) -> list[Scenario]:
        """Put own weights in place of the common ones; the networks that stay as they are."""
        for one, own in fitting.items():
            networks[one].load({**networks[one].weights, **own})
            self._whose[one] = whose
        return [one for one in networks if one not in fitting]

    def styles(self, cells: Collection[Scenario]) -> list[str]:
        """The file stems of training sites that have own weights of a network of these cells, for a hospital that
        cannot solve its own."""
        if not (readers_of := self._style_readers(cells)):  # no network is read for nothing
            return []
        networks = {one: self.network(one) for one in self._trained(cells)}
        return [site for site, readers in readers_of.items() if _fitting(readers, networks)[0]]

    def load_style(self, site: str, cells: Collection[Scenario]) -> list[Scenario]:
        """Put a training site's own weights in place of the common ones; the trained cells of these that it has none
        of.

        Raises:
            RunError: there are none of this site, none of these cells, or the run is private.
        """
        if self.task.privacy.on:
            raise RunError(f"{self.place} is private, and a site's own weights have no noise: leave --style out")
        readers_of = self._style_readers(cells)
        stem = next((its for its in (file_stem(site), site) if its in readers_of), "")  # `styles` lists stems
        networks = {one: self.network(one) for one in self._trained(cells)}
        fitting, refusal = _fitting(readers_of.get(stem, []), networks)
        if not fitting:
            why = "" if refusal is None else f" for {'; '.join(map(str, cells))} ({refusal})"
            kept = ""
            if had := ", ".join(map(shown, self.styles(cells))):
                kept = f"take one of {had}, or "
            elif refusal is None:
                kept = (
                    "there is none: real sites share theirs by policy.share_last_layer, after a run with personal=head"
                    " and without privacy, or "
                )
            name = shown(site) or "a site without a name"
            raise RunError(f"{self.place} has no weights of {name}'s own{why}; {kept}leave --style out")
        return self._load(fitting, networks, whose=f"style of {stem}")

    def _style_readers(self, cells: Collection[Scenario]) -> dict[str, list[Reader]]:
        """{file stem of a site: how its files are read}: what real sites have shared, and what the sites of a
        simulation keep. A private run has none: they have no noise."""
        if self.task.privacy.on:
            return {}
        found = [
            (PurePosixPath(name).stem, partial(own_weights_in, content, place=f"{self.place}: {name}"))
            for name, content in self.extras.items()
            if name.startswith(STYLES)
        ]
        if self.place.is_dir():
            sites_dir = whole_of(self.place) / "sites"
            paths = [(path.parents[1].name, path) for path in sorted(sites_dir.glob("*/heads/*.safetensors"))]
            paths += [item for cell in self._trained(cells) for item in style_paths(self._folder(cell)).items()]
            found = [(site, partial(read_own_weights, path)) for site, path in paths]
        readers: dict[str, list[Reader]] = {}
        for site, reader in sorted(found, key=itemgetter(0)):
            readers.setdefault(site, []).append(reader)
        return readers

    def _trained(self, cells: Collection[Scenario]) -> list[Scenario]:
        """The trained cells of which these are made."""
        return [*dict.fromkeys(one for cell in cells for one in self.blends.get(cell, [cell]))]

    def network(self, cell: Scenario) -> Network:
        """The network of a trained cell. Raises RunError: its folder holds no model."""
        if cell not in self._read:
            self._read[cell] = self.networks[cell]()
        return self._read[cell]

    def _only(self, given: Sequence[str], target: str | None) -> Scenario:
        (scenario,) = self.networks
        if sorted(given) != sorted(scenario.sources) or target not in (None, scenario.target):
            files = " ".join(f"--source {modality}=FILE" for modality in scenario.sources)
            raise ConfigError(
                f"the model of {self.place} makes {scenario.target} from {', '.join(scenario.sources)}, but was given"
                f" {', '.join(given)} and asked for {target or scenario.target}; pass {files}"
            )
        return scenario


def _fitting(
    readers: Collection[Reader], networks: Mapping[Scenario, Network]
) -> tuple[dict[Scenario, Own], RunError | None]:
    """The own weights of each network that a file belongs to, and why the last other file belongs to none."""
    found, refusal = dict[Scenario, Own](), None
    for read in readers:
        for cell in [cell for cell in networks if cell not in found]:
            try:
                found[cell] = read(network=networks[cell])
            except RunError as error:
                refusal = error
    return found, refusal


def _lost(summary: StudySummary, *, there: Collection[Scenario]) -> dict[Scenario, str]:
    """What the folder lacks of the cells that its summary names."""
    cells = {parse_scenario(name): its.how for name, its in summary.cells.items() if its.how != NOBODY}
    return {
        cell: f"model in {folder_of(Path(), cell)}" if how == TRAINED else BLENDS
        for cell, how in cells.items()
        if cell not in there
    }


def _read_blends(path: Path, *, trained: Collection[Scenario]) -> dict[Scenario, Weights]:
    """The blends of a run; none without a file. Raises RunError: the file is damaged."""
    try:
        blends: dict[Scenario, Weights] = {
            parse_scenario(cell): {parse_scenario(one): float(weight) for one, weight in weights.items() if weight}
            for cell, weights in (read_json(path) or {}).items()
        }
    except (AttributeError, TypeError, ValueError, ConfigError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it from a backup") from None
    for cell, weights in blends.items():
        for one in weights:
            if one not in trained or one.target != cell.target or not {*one.sources} <= {*cell.sources}:
                raise RunError(f"{path}: {cell} is a blend of {one}, whose run is not there; copy the whole folder")
        if not math.isclose(sum(weights.values()), 1, abs_tol=1e-3) or min(weights.values()) < 0:
            raise RunError(f"{path}: the weights of {cell} are no parts of 1; restore the file from a backup")
    return blends
