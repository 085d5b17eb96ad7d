"""The settings of a run, as dataclasses; each says what it means, and `validate` says whether its values make sense.

`Task` is the part that travels to a site with every request; the rest of a `RunConfig` stays with whoever started the
run. A task is hashable, so it is a key.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Literal

from agi_core.cells import is_vocabulary, parse_vocabulary
from agi_core.errors import ConfigError
from agi_core.layouts import LayoutName
from agi_core.models.model_config import ModelConfig, spatial_multiple
from agi_core.protocol import Transport
from agi_core.scenario import parse_scenario

ServerOptimizer = Literal["sgd", "adam"]
Aggregation = Literal["mean", "trimmed_mean", "median", "krum", "bulyan"]
Engine = Literal["processes", "in-process", "ray", "deployment"]
MisalignKind = Literal["translation", "rotation", "scale", "elastic", "rigid"]
Personal = Literal["none", "head", "norms", "finetune"]
Registration = Literal["none", "rigid"]
Trainable = Literal["all", "norms", "last", "adapters"]

MOST_THREADS = 1024
MOST_STEPS, MOST_CROPS, LARGEST_CROP = 1_000_000, 4096, 1024  # far above what anybody needs: a site's hard limits
LARGEST_RATE = 1.0
DEFAULT_CROP = {2: (96, 96), 3: (48, 48, 32)}
DEPLOYMENT: Engine = "deployment"  # the engine of runs that `python -m server submit` starts at real sites


@dataclass(frozen=True)
class GridConfig:
    """The working grid.

    `spacing_mm` is right, anterior, superior (None = the target's own). `crop` is the training crop in voxels: rows
    (towards anterior), columns (towards right) and, with model.dims=3, slices. None is 96 x 96, or 48 x 48 x 32 in 3-D,
    where two sizes get 32 slices. See `Task.crop` and `Task.spacing_mm`.
    """

    spacing_mm: tuple[float, ...] | None = None
    crop: tuple[int, ...] | None = None

    def validate(self) -> None:
        """Raise ConfigError unless the spacing is possible; `Task.validate` judges the crop, which the model bounds."""
        spacing = self.spacing_mm
        if spacing is not None and (len(spacing) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing)):
            raise ConfigError(f"grid.spacing_mm={[*spacing]} must be three positive sizes in mm, for example [1,1,5]")


@dataclass(frozen=True)
class MisalignConfig:
    """A random part of `size` moves `source` in every training sample; nothing moves while `source` is None.

    `size`: voxels (translation), degrees (rotation), a fraction (scale), mm RMS (elastic), mm and degrees (rigid, 3-D).
    """

    source: str | None = None
    kind: MisalignKind = "translation"
    size: float = 6.0

    def validate(self) -> None:
        """Raise ConfigError unless slices can be moved so."""
        _at_least(0.0, **{"training.misalign.size": self.size})
        if self.kind == "rigid":
            raise ConfigError(
                "training.misalign moves slices within their plane: choose another kind than rigid, and leave"
                " model.dims=2"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One round at one site: `local_steps` AdamW steps on `batch_size` crops; L1 + ssim_weight * (1 - SSIM).

    The learning rate rises linearly over the first `warmup` part of all steps of the run to `learning_rate`, then falls
    as a cosine. `adversarial` adds a patch discriminator, as pix2pix does: see `agi_core.adversary`. `proximal` mu adds
    mu / 2 |w - w0|^2 for the weights w0 that the round began with (FedProx: Li et al., MLSys 2020); not in private
    training. `align_target` takes the loss where the target lies on the reference (`agi_core.target_alignment`); None =
    not chosen: no, but a simulation measures whether the target lies in a pose of its own.
    """

    local_steps: int = 40
    batch_size: int = 4
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    ssim_weight: float = 0.0
    proximal: float = 0.0
    adversarial: bool = False
    align_target: bool | None = None
    misalign: MisalignConfig = field(default_factory=MisalignConfig)

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range."""
        weights = ("weight_decay", "ssim_weight", "proximal")
        _at_least(1, MOST_STEPS, **{"training.local_steps": self.local_steps})
        _at_least(1, MOST_CROPS, **{"training.batch_size": self.batch_size})
        _at_least(0.0, **{f"training.{name}": getattr(self, name) for name in weights})
        _positive(LARGEST_RATE, **{"training.learning_rate": self.learning_rate})
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"training.warmup={self.warmup} must lie between 0 and 1 (a part of all steps)")
        self.misalign.validate()


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
    trainable: Trainable = "norms"
    delta: float = 1e-5
    noise_multiplier: float | None = None
    max_grad_norm: float = 0.3
    lot_rate: float = 0.5
    slices_per_subject: int = 4
    learning_rate: float = 1e-3

    @property
    def on(self) -> bool:
        return self.epsilon is not None

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range."""
        names = ("epsilon", "noise_multiplier", "max_grad_norm")
        _positive(**{f"privacy.{name}": getattr(self, name) for name in names})
        _positive(LARGEST_RATE, **{"privacy.learning_rate": self.learning_rate})
        if self.noise_multiplier is not None and not self.on:
            raise ConfigError("privacy.noise_multiplier is set without a budget; set privacy.epsilon too")
        if not 0 < self.delta < 1:
            raise ConfigError(f"privacy.delta={self.delta} must lie between 0 and 1, well below 1 / subjects of a site")
        if not 0 < self.lot_rate <= 1:
            raise ConfigError(f"privacy.lot_rate={self.lot_rate} must lie above 0 and up to 1 (a probability)")
        _at_least(1, MOST_CROPS, **{"privacy.slices_per_subject": self.slices_per_subject})


@dataclass(frozen=True)
class EvaluationConfig:
    """`validation_slices` per site and round (in 3-D: whole volumes of about so many slices, at least one,
    and at a hospital as many as its policy wants subjects);
    `max_subjects` is the limit of an unseen site's final test. `segmenter` is the fingerprint of a segmentation
    network, as `python -m agi_core segment` prints it: sites that have that file (`segmenter:` in the site file) tell
    what it still finds in their test. A simulation takes the file itself, `data.segmenter`."""

    validation_slices: int = 64
    max_subjects: int = 20
    segmenter: str | None = None

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range."""
        names = ("validation_slices", "max_subjects")
        _at_least(0, **{f"evaluation.{name}": getattr(self, name) for name in names})
        if self.segmenter is not None and not re.fullmatch("[0-9a-f]{16}", self.segmenter):
            raise ConfigError(
                f"evaluation.segmenter={self.segmenter} must be the 16 digits that `python -m agi_core segment` prints"
                " for the file; each site has that file itself, and a simulation takes it as data.segmenter=FILE"
            )


@dataclass(frozen=True)
class Task:
    """What a site is asked to do: everything that decides a site's result besides weights, round and the site's own
    data.

    `reference` is the source that was acquired in the target's pose; None = not chosen, see `Scenario.reference`.
    `personal: head` = each site trains over a prior of its own, and ends with a last layer of its own. Both are solved
    in closed form from its own subjects without noise, and are scored beside the common model. They stay at the site,
    unless its `policy.share_last_layer` lets the layer leave. Before that last layer, `norms` trains the norms, biases,
    first and last convolution for one more round at the site, and `finetune` all weights.
    """

    scenario: str = ""
    reference: str | None = None
    seed: int = 0
    rounds: int = 6
    personal: Personal = "none"
    grid: GridConfig = field(default_factory=GridConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    @property
    def crop(self) -> tuple[int, ...]:
        """The training crop in voxels: (rows, columns), in 3-D (rows, columns, slices)."""
        default, given = DEFAULT_CROP[self.model.dims], self.grid.crop or ()
        return given + default[len(given) :] if len(given) in (0, 2) else given

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Of the working grid, along right, anterior, superior; None keeps each target's own."""
        if self.grid.spacing_mm is None:
            return None
        right, anterior, superior = self.grid.spacing_mm
        return right, anterior, superior

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range and fits the others."""
        sources = parse_scenario(self.scenario).sources
        if is_vocabulary(self.scenario):
            parse_vocabulary(self.scenario)
        named = {"reference": self.reference, "training.misalign.source": self.training.misalign.source}
        for name, source in named.items():
            if source is not None and source not in sources:
                raise ConfigError(f"{name}={source} is no source of {self.scenario}; choose {', '.join(sources)}")
        _at_least(1, MOST_STEPS, rounds=self.rounds)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} must lie between 0 and 2^63 - 1")
        for part in (self.model, self.training, self.evaluation, self.grid, self.privacy):
            part.validate()
        self._validate_crop()
        self._validate_combination()

    def _validate_crop(self) -> None:
        crop, dims, multiple = [*self.crop], self.model.dims, spatial_multiple(self.model)
        if len(crop) != dims or min(crop) < 16 or max(crop) > LARGEST_CROP:
            raise ConfigError(
                f"grid.crop={crop} must be {'two' if dims == 2 else 'two or three'} sizes of 16 to {LARGEST_CROP}"
                f" voxels with model.dims={dims}, for example {[*DEFAULT_CROP[dims]]}"
            )
        if any(size % multiple for size in crop):
            raise ConfigError(
                f"grid.crop={crop}: with {len(self.model.widths)} widths each size must be a multiple of {multiple}"
            )
        if self.training.adversarial and min(crop) < 32:
            raise ConfigError(f"grid.crop={crop}: the discriminator of training.adversarial needs at least 32 voxels")

    def _validate_combination(self) -> None:
        if self.training.misalign.source is not None and self.model.dims == 3:
            raise ConfigError("training.misalign moves slices within their plane: leave model.dims=2")
        if self.training.adversarial and self.model.neighbours:
            raise ConfigError("training.adversarial judges single slices; leave model.neighbours at 0")
        if self.training.adversarial and self.privacy.on:
            raise ConfigError(
                "training.adversarial: a discriminator sees the subjects without privacy; leave it out, or"
                " privacy.epsilon"
            )
        if self.training.proximal and self.privacy.on:
            raise ConfigError(
                f"training.proximal={self.training.proximal} has no effect in private training; leave it out, or"
                " privacy.epsilon"
            )
        if self.evaluation.segmenter and self.privacy.on:
            raise ConfigError(
                "evaluation.segmenter asks for figures in tumours, which no private run tells; leave it out, or"
                " privacy.epsilon"
            )
        if self.privacy.trainable == "adapters" and not self.model.adapters:
            raise ConfigError("privacy.trainable=adapters, but the model has none; set model.adapters=4 or so")


@dataclass(frozen=True)
class DataConfig:
    """Scans of a simulation. `dir` None = built-in synthetic data of `phantom_sites`; `sites` = site map (CSV);
    `exclude` = subject ids. `register: rigid` lays every source on the reference (`agi_core.data.registration`).
    `unseen_anatomy` = one of the brains of the built-in data: nobody trains or validates on it. `segmenter` = file of
    `python -m agi_core segment`, whose network then looks for the tumours of the test with the synthetic scan."""

    dir: str | None = None
    layout: LayoutName = "ixi"
    sites: str | None = None
    exclude: tuple[str, ...] = ()
    register: Registration = "none"
    cache_dir: str = ".cache/volumes"
    phantom_sites: str = "Guys:14,HH:10,IOP:6"
    unseen_anatomy: str | None = None
    segmenter: str | None = None


@dataclass(frozen=True)
class FederationConfig:
    """`sites` train, `unseen_sites` are scored at the end; `subjects` = {site: subjects that it may count}, which the
    registry or the simulation fills in. `offers` = {site: its modalities for a run over a vocabulary}
    (`agi_core.cells`); a simulated site that is not named offers all that its subjects have. `quorum` = replies needed
    per round (None = every training site that does not sit out by right: budget spent, policy).

    A deployed run waits `wait_s` for sites to connect and `deadline_s` for their replies; a round below the quorum is
    repeated `retries` times with the same weights before the run pauses. Once a `quorum` has replied to a training
    request, the others have `grace_s` more (None = until the deadline). With `transport` float16, weights are rounded
    while they travel, in half the bytes. Server momentum 0 and server learning rate 1 are plain FedAvg;
    `server_optimizer` adam is FedAdam, which wants a learning rate of 1e-3 or so (`server.server_step`).

    `secure_sum` shows the coordinator the sum of the updates and none of them (`agi_core.secure_sum`); `keys` = {site:
    its registered key}, which the registry fills in.

    `aggregation`: see `server.aggregation`; all but the mean withstand a `hostile_share` of the sites (at least one)
    and count every site alike. `max_update_norm` is the largest change of the weights that a site's reply may bring,
    over the square root of its steps (None = what AdamW can do).
    """

    sites: tuple[str, ...] = ()
    unseen_sites: tuple[str, ...] = ()
    subjects: dict[str, int] = field(default_factory=dict)
    offers: dict[str, list[str]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    quorum: int | None = None
    deadline_s: float = 3600.0
    grace_s: float | None = None
    wait_s: float = 600.0
    retries: int = 1
    transport: Transport = "float32"
    server_optimizer: ServerOptimizer = "sgd"
    server_momentum: float = 0.0
    server_learning_rate: float = 1.0
    aggregation: Aggregation = "mean"
    hostile_share: float = 0.1
    max_update_norm: float | None = None
    secure_sum: bool = False

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range."""
        if self.quorum is not None:
            _at_least(1, **{"federation.quorum": self.quorum})
        if not 0 < self.hostile_share < 0.5:
            raise ConfigError(f"federation.hostile_share={self.hostile_share} must lie between 0 and 0.5")
        _at_least(0, **{"federation.wait_s": self.wait_s, "federation.retries": self.retries})
        if not 0 <= self.server_momentum < 1:
            raise ConfigError(f"federation.server_momentum={self.server_momentum} must lie in [0, 1)")
        if self.secure_sum and self.aggregation != "mean":
            raise ConfigError(
                f"federation.secure_sum=true shows no single update, and federation.aggregation={self.aggregation}"
                " compares them; leave one of the two out"
            )
        if self.secure_sum and self.transport != "float32":
            raise ConfigError("federation.secure_sum=true sums 64-bit numbers; leave federation.transport at float32")
        if self.grace_s is not None and (self.quorum is None or self.secure_sum):
            raise ConfigError(
                "federation.grace_s is what others may take once a quorum has replied: set federation.quorum, and leave"
                " federation.secure_sum off, whose sums need every reply"
            )
        names = ("deadline_s", "grace_s", "server_learning_rate", "max_update_norm")
        _positive(**{f"federation.{name}": getattr(self, name) for name in names})


@dataclass(frozen=True)
class RunConfig(Task):
    """A whole run: the task, and where and how it is run.

    `initial_weights` is a file of `python -m agi_core pretrain`, `random`, or in a simulation `public`: pre-trained on
    built-in data. None = random, but in a private simulation public. `compile`: see `agi_core.network`.
    `deterministic`: see `agi_core.host.device`. `engine`: in a simulation, sites side by side in processes of `threads`
    cores each (on a GPU as in-process), one after another in-process, or Ray. `gpus_per_client` is of the Ray engine,
    where there is a GPU: 0.25 = four clients share one.
    """

    initial_weights: str | None = None
    clients: int = 5
    partition: Literal["site", "iid"] = "site"
    engine: Engine = "processes"
    device: str = "auto"
    threads: int = 1
    compile: bool = False
    deterministic: bool = False
    gpus_per_client: float = 1.0
    data: DataConfig = field(default_factory=DataConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)

    @property
    def task(self) -> Task:
        """The part that travels to the sites."""
        return Task(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Task)})

    def validate(self) -> None:
        """Raise ConfigError unless every value is in range and fits the others."""
        super().validate()
        _at_least(1, clients=self.clients)
        check_threads(self.threads)
        share = self.gpus_per_client
        if not (0 < share <= 1 or (share > 1 and share.is_integer())):
            raise ConfigError(f"gpus_per_client={share:g} must be a part of a GPU, such as 0.25, or a whole number")
        self.federation.validate()


def check_threads(threads: int) -> None:
    """Raise ConfigError unless PyTorch can be given so many CPU threads."""
    if not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads={threads} must lie between 1 and {MOST_THREADS}")


def _at_least(bound: float, most: float = math.inf, /, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= bound):  # NaN fails too
            raise ConfigError(f"{name}={value} must be at least {bound}")
        _at_most(most, name, value)


def _positive(most: float = math.inf, /, **values: float | None) -> None:
    """None is a value that was not chosen."""
    for name, value in values.items():
        if value is None:
            continue
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be a positive number")
        _at_most(most, name, value)


def _at_most(most: float, name: str, value: float) -> None:
    if value > most:
        raise ConfigError(f"{name}={value} must be at most {most}")
