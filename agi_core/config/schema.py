"""Configuration: dataclass schema, and OmegaConf to load, merge and validate it.

Order of precedence: defaults below < `--config FILE` < command-line flags < `key=value`. What comes out is a plain
dataclass tree. `Task` is the part that travels to a site with every request; the rest stays with whoever started the
run.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # OmegaConf lets PyYAML's errors through

from agi_core.errors import ConfigError
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.protocol import Transport
from agi_core.scenario import parse_scenario

Layout = Literal["ixi", "brats", "bids"]
Aggregation = Literal["mean", "trimmed_mean", "median", "krum", "bulyan"]
DEFAULT_CROP = {2: (96, 96), 3: (48, 48, 32)}
Register = Literal["none", "rigid"]
MisalignKind = Literal["translation", "rotation", "scale", "elastic", "rigid"]
DEFAULT_SCENARIOS: dict[Layout, str] = {"ixi": "T1,T2:PD", "brats": "t1n,t1c,t2w:t2f", "bids": "T1w,T2w:FLAIR"}


@dataclass(frozen=True)
class GridConfig:
    """The working grid: `spacing_mm` (axis 1, axis 2, slice; None = the target's own) and the training crop in
    voxels.

    `crop` is rows (towards anterior), columns (towards right) and, with model.dims=3, slices; None is 96 x 96, or
    48 x 48 x 32 in 3-D, where two sizes get 32 slices. See `crop_of`.
    """

    spacing_mm: list[float] | None = None
    crop: list[int] | None = None


@dataclass(frozen=True)
class MisalignConfig:
    """Every training sample's `source` is moved by a random part of `size`; off while `source` is None.

    `size`: voxels (translation), degrees (rotation), a fraction (scale), mm RMS (elastic), mm and degrees (rigid, 3-D).
    """

    source: str | None = None
    kind: MisalignKind = "translation"
    size: float = 6.0


@dataclass(frozen=True)
class TrainingConfig:
    """One round at one site: `local_steps` AdamW steps on `batch_size` crops; L1 + ssim_weight * (1 - SSIM).

    The learning rate rises linearly over the first `warmup` part of all steps of the run to `learning_rate`, then falls
    as a cosine. `adversarial` adds a patch discriminator, as pix2pix does: see `agi_core.adversary`.
    """

    local_steps: int = 40
    batch_size: int = 4
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    ssim_weight: float = 0.0
    adversarial: bool = False
    misalign: MisalignConfig = field(default_factory=MisalignConfig)


@dataclass(frozen=True)
class PrivacyConfig:
    """Patient-level differential privacy; off while `epsilon` is None. See `agi_core.privacy.patient_sgd`.

    `epsilon` at `delta` is a site's budget. `noise_multiplier` None = just enough that all steps of the run keep it.
    `trainable` is the part of the weights that is trained (`agi_core.privacy.trainable`); the rest stays as it was
    sent. `lot_rate` is each subject's probability to be in a step, `slices_per_subject` the crops of each that is (they
    cost no privacy). Steps are AdamW on the noised sum of subjects' gradients clipped to norm `max_grad_norm`, with
    `learning_rate` as peak of the schedule of `TrainingConfig`.
    """

    epsilon: float | None = None
    trainable: Literal["all", "norms", "last", "adapters"] = "norms"
    delta: float = 1e-5
    noise_multiplier: float | None = None
    max_grad_norm: float = 0.3
    lot_rate: float = 0.5
    slices_per_subject: int = 4
    learning_rate: float = 1e-3

    @property
    def on(self) -> bool:
        return self.epsilon is not None


@dataclass(frozen=True)
class EvaluationConfig:
    """`validation_slices` per site and round (in 3-D: whole volumes of about so many slices, at least one);
    `max_subjects` is the limit of an unseen site's final test."""

    validation_slices: int = 64
    max_subjects: int = 20


@dataclass(frozen=True)
class Task:
    """What a site is asked to do: everything that decides a site's result besides weights, round and the site's own
    data."""

    scenario: str = ""
    reference: str | None = None
    seed: int = 0
    rounds: int = 6
    grid: GridConfig = field(default_factory=GridConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)


@dataclass(frozen=True)
class DataConfig:
    """Scans of a simulation. `dir` None = built-in synthetic data of `phantom_sites`; `sites` = site map (CSV);
    `exclude` = subject ids. `register: rigid` lays every source on the reference (`agi_core.data.registration`)."""

    dir: str | None = None
    layout: Layout = "ixi"
    sites: str | None = None
    exclude: list[str] = field(default_factory=list)
    register: Register = "none"
    cache_dir: str = ".cache/volumes"
    phantom_sites: str = "Guys:14,HH:10,IOP:6"


@dataclass(frozen=True)
class FederationConfig:
    """`sites` train, `unseen_sites` are scored at the end; `subjects` = {site: subjects that it may count}, which the
    registry or the simulation fills in; `quorum` = replies needed per round (None = every training site that does not
    sit out by right: budget spent, policy).

    A deployed run waits `wait_s` for sites to connect and `deadline_s` for their replies; a round below the quorum is
    repeated `retries` times with the same weights before the run pauses. With `transport` float16, weights are rounded
    while they travel, in half the bytes. Server momentum 0 and server learning rate 1 are plain FedAvg.

    `aggregation`: see `server.robust`; all but the mean withstand a `hostile_share` of the sites (at least one) and
    count every site alike. `max_update_norm` is the largest change of the weights that a site's reply may bring, over
    the square root of its steps (None = what AdamW can do).
    """

    sites: list[str] = field(default_factory=list)
    unseen_sites: list[str] = field(default_factory=list)
    subjects: dict[str, int] = field(default_factory=dict)
    quorum: int | None = None
    deadline_s: float = 3600.0
    wait_s: float = 600.0
    retries: int = 1
    transport: Transport = "float32"
    server_momentum: float = 0.0
    server_learning_rate: float = 1.0
    aggregation: Aggregation = "mean"
    hostile_share: float = 0.1
    max_update_norm: float | None = None


@dataclass(frozen=True)
class RunConfig(Task):
    """A whole run: the task, and where and how it is run.

    `initial_weights` is a file of `python -m agi_core pretrain`, or `random`; None = random, but in a private
    simulation pre-trained on built-in data.
    """

    initial_weights: str | None = None
    clients: int = 5
    partition: Literal["site", "iid"] = "site"
    engine: Literal["in-process", "ray", "deployment"] = "in-process"
    device: str = "auto"
    threads: int = 1
    data: DataConfig = field(default_factory=DataConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)


DEPLOYMENT: Literal["deployment"] = (
    "deployment"  # the engine of runs that `python -m server submit` starts at real sites
)

PRIVATE_STEPS = 4
VOLUME_LEARNING_RATE = 1e-3

T = TypeVar("T", bound=Task)


def load_config(
    path: Path | None,
    *,
    overrides: Mapping[str, Any],
    assignments: Sequence[str] = (),
    base: RunConfig | None = None,
    defaults: RunConfig | None = None,
) -> RunConfig:
    """The run's configuration from a YAML file, command-line flags (dotted keys; None = not given) and `key=value`
    assignments.

    Each wins over the ones before it; all win over `base`, the settings of an existing run. A new one starts from
    `defaults` (None = `RunConfig()`) and `_of_a_new_run`.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, or a value out of range; the message names the key.
    """
    try:
        settings = OmegaConf.create()
        if path is not None:
            if not path.is_file():
                raise ConfigError(
                    f"config file {path} does not exist; give an existing YAML file to --config, or leave it out"
                )
            settings = _read_settings(path)
        flags = OmegaConf.create()
        for key, value in overrides.items():
            if value is not None:
                OmegaConf.update(flags, key, value)
        for assignment in assignments:
            if "=" not in assignment:
                raise ConfigError(
                    f"cannot read {assignment!r}: settings are written key=value, for example training.local_steps=20"
                )
        given = OmegaConf.merge(settings, flags, OmegaConf.from_dotlist(list(assignments)))
        start = OmegaConf.structured(base or defaults or RunConfig)
        merged = OmegaConf.merge(start, _of_a_new_run(given) if base is None else {}, given)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from None
    except YAMLError:
        raise ConfigError(
            f"cannot read {' '.join(assignments)}: a bracket or quote is not closed; lists are written key=[1,2]"
        ) from None
    config: RunConfig = OmegaConf.to_object(merged)  # type: ignore[assignment]
    if not config.scenario:
        config = dataclasses.replace(config, scenario=DEFAULT_SCENARIOS[config.data.layout])
    validate(config)
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, crop=[*crop_of(config)]))


def _of_a_new_run(given: Container) -> dict[str, Any]:
    """What differs from `RunConfig`, which names the paper's own network, where the user has not chosen.

    Sources are aligned where that was measured to be better (docs/results.md), in 2-D with a slice on either side if
    nothing forbids it; not in BraTS's layout, whose scans have been registered. A private run takes few steps, each of
    a large lot: noise does not average out over more. In 3-D the step is smaller: sites drift apart on few patches.
    """

    def chosen(key: str, default: Any) -> Any:
        return OmegaConf.select(given, key, default=default)

    in_2d = chosen("model.dims", 2) == 2
    usual = "dense" if in_2d else "affine"
    alignment = chosen("model.alignment", "none" if chosen("data.layout", "ixi") == "brats" else usual)
    slab = in_2d and alignment != "none" and not chosen("training.adversarial", False)
    training: dict[str, Any] = {} if chosen("privacy.epsilon", None) is None else {"local_steps": PRIVATE_STEPS}
    if not in_2d:
        training["learning_rate"] = VOLUME_LEARNING_RATE
    return {"model": {"alignment": alignment, "neighbours": int(slab)}, "training": training}


def _read_settings(path: Path) -> DictConfig:
    try:
        settings = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigError(f"cannot read config file {path}: {' '.join(str(error).split())}") from None
    if not isinstance(settings, DictConfig):
        raise ConfigError(f"config file {path} is a list; write one setting per line, for example rounds: 5")
    return settings


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """A validated `Task` or `RunConfig` from plain nested values.

    Raises:
        ConfigError: unknown key, wrong type or value out of range.
    """
    try:
        config: T = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(values)))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from None
    validate(config)
    return config


def to_yaml(config: Task) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read_yaml(path: Path) -> RunConfig:
    """The configuration that a run folder holds."""
    return load_config(path, overrides={})


def task_of(config: RunConfig) -> Task:
    """The part of a run's configuration that travels to the sites."""
    return Task(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Task)})


def crop_of(task: Task) -> tuple[int, ...]:
    """The training crop in voxels: (rows, columns), in 3-D (rows, columns, slices)."""
    default, given = DEFAULT_CROP[task.model.dims], tuple(task.grid.crop or ())
    return given + default[len(given) :] if len(given) in (0, 2) else given


def task_json(task: Task) -> str:
    """Canonical JSON of a task: equal tasks give equal text."""
    return json.dumps(dataclasses.asdict(task), sort_keys=True, separators=(",", ":"))


def task_hash(text: str) -> str:
    """Twelve hexadecimal digits that name a task's JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def validate(config: Task) -> None:
    """Raise ConfigError unless every value is in range and fits the others."""
    scenario = parse_scenario(config.scenario)
    if config.reference is not None and config.reference not in scenario.sources:
        raise ConfigError(
            f"reference={config.reference} is no source of {config.scenario}; choose {', '.join(scenario.sources)}"
        )
    config.model.validate()
    training, grid = config.training, config.grid
    _at_least(1, rounds=config.rounds, batch_size=training.batch_size, local_steps=training.local_steps)
    _at_least(0, validation_slices=config.evaluation.validation_slices, max_subjects=config.evaluation.max_subjects)
    _at_least(0.0, weight_decay=training.weight_decay, ssim_weight=training.ssim_weight)
    if not (math.isfinite(training.learning_rate) and training.learning_rate > 0):
        raise ConfigError(f"training.learning_rate={training.learning_rate} must be a positive number")
    if not 0 <= training.warmup <= 1:
        raise ConfigError(f"training.warmup={training.warmup} must lie between 0 and 1 (a part of all steps)")
    crop = [*crop_of(config)]
    if len(crop) != config.model.dims or min(crop) < 16:
        raise ConfigError(
            f"grid.crop={crop} must be {'two' if config.model.dims == 2 else 'two or three'} sizes of at least 16"
            f" voxels with model.dims={config.model.dims}, for example {[*DEFAULT_CROP[config.model.dims]]}"
        )
    multiple = spatial_multiple(config.model)
    if any(size % multiple for size in crop):
        raise ConfigError(
            f"grid.crop={crop}: with {len(config.model.widths)} widths each size must be a multiple of {multiple}"
        )
    if grid.spacing_mm is not None and (
        len(grid.spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in grid.spacing_mm)
    ):
        raise ConfigError(f"grid.spacing_mm={grid.spacing_mm} must be three positive sizes in mm, for example [1,1,5]")
    misalign = training.misalign
    if misalign.source is not None and misalign.source not in scenario.sources:
        raise ConfigError(
            f"training.misalign.source={misalign.source} is no source of {config.scenario};"
            f" choose {', '.join(scenario.sources)}"
        )
    _at_least(0.0, **{"training.misalign.size": misalign.size})
    if misalign.kind == "rigid" or (misalign.source is not None and config.model.dims == 3):
        raise ConfigError(
            "training.misalign moves slices within their plane: choose another kind than rigid, and leave model.dims=2"
        )
    if training.adversarial and min(crop) < 32:
        raise ConfigError(f"grid.crop={crop}: the discriminator of training.adversarial needs at least 32 voxels")
    if training.adversarial and config.model.neighbours:
        raise ConfigError("training.adversarial judges single slices; leave model.neighbours at 0")
    if training.adversarial and config.privacy.on:
        raise ConfigError(
            "training.adversarial: a discriminator sees the subjects without privacy; leave it out, or privacy.epsilon"
        )
    _validate_privacy(config.privacy)
    if config.privacy.trainable == "adapters" and not config.model.adapters:
        raise ConfigError("privacy.trainable=adapters, but the model has none; set model.adapters=4 or so")
    if isinstance(config, RunConfig):
        _validate_run(config)


def _validate_privacy(privacy: PrivacyConfig) -> None:
    for name in ("epsilon", "noise_multiplier", "max_grad_norm", "learning_rate"):
        value = getattr(privacy, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"privacy.{name}={value} must be a positive number")
    if privacy.noise_multiplier is not None and not privacy.on:
        raise ConfigError("privacy.noise_multiplier is set without a budget; set privacy.epsilon too")
    if not 0 < privacy.delta < 1:
        raise ConfigError(f"privacy.delta={privacy.delta} must lie between 0 and 1, well below 1 / subjects of a site")
    if not 0 < privacy.lot_rate <= 1:
        raise ConfigError(f"privacy.lot_rate={privacy.lot_rate} must lie above 0 and up to 1 (a probability)")
    _at_least(1, slices_per_subject=privacy.slices_per_subject)


def _validate_run(config: RunConfig) -> None:
    _at_least(1, clients=config.clients, threads=config.threads)
    federation = config.federation
    if federation.quorum is not None and federation.quorum < 1:
        raise ConfigError(f"federation.quorum={federation.quorum} must be at least 1")
    if not 0 < federation.hostile_share < 0.5:
        raise ConfigError(f"federation.hostile_share={federation.hostile_share} must lie between 0 and 0.5")
    if not (math.isfinite(federation.deadline_s) and federation.deadline_s > 0):
        raise ConfigError(f"federation.deadline_s={federation.deadline_s} must be a positive number of seconds")
    _at_least(0, **{"federation.wait_s": federation.wait_s, "federation.retries": federation.retries})
    if not 0 <= federation.server_momentum < 1:
        raise ConfigError(f"federation.server_momentum={federation.server_momentum} must lie in [0, 1)")
    if not (math.isfinite(federation.server_learning_rate) and federation.server_learning_rate > 0):
        raise ConfigError(
            f"federation.server_learning_rate={federation.server_learning_rate} must be a positive number"
        )
    ceiling = federation.max_update_norm
    if ceiling is not None and not (math.isfinite(ceiling) and ceiling > 0):
        raise ConfigError(f"federation.max_update_norm={ceiling} must be a positive number")


def _at_least(bound: float, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= bound):  # NaN fails too
            raise ConfigError(f"{name}={value} must be at least {bound}")


def _explain(error: OmegaConfBaseException) -> str:
    """One sentence from OmegaConf's several lines, with the setting named."""
    key = getattr(error, "full_key", None) or getattr(error, "key", None)
    problem = str(error).splitlines()[0]
    if "is not a ListConfig" in problem:
        problem = "needs a list, for example [a,b]"
    place = f"setting {key}: " if key else ""
    return f"{place}{problem}; `python simulations/run.py --help-config` lists every setting"
