"""The site's own rules: what they are, which of their values make sense, and whether a request keeps to them.

The coordinator may ask for more privacy, never for less. When a request breaks a rule, the site's log names the rule
and both values, and the coordinator gets one public sentence.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

from agi_core.cells import is_vocabulary, parse_vocabulary, wanted
from agi_core.config.schema import Task
from agi_core.errors import ConfigError, PolicyError
from agi_core.metric_table import METRIC_NAMES
from agi_core.protocol import ALLOWED_METRICS
from agi_core.scenario import parse_scenario

LAST_LAYER_IS = "solved from the site's own subjects without noise"
_ABOVE_0 = 1e-12


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The site's own rules; no request can soften them.

    A site of fewer than `minimum_subjects` tells no figure, and no request may ask for figures of fewer.
    So many answers with figures leave on one model and within a day (None = any number); what would follow holds none.
    `max_deadline_s` is the longest time that one request gets. `metrics` and `scenarios` are those allowed (None =
    all); a vocabulary such as `T1,T2,PD:any` stands for all its cells. `settings` limits settings of a task by their
    dotted name: a number is the largest value, a list holds the values that are allowed. With `studies` ask, a person
    agrees to each study first (`client.border.consent`). `alone`: after a study the site trains a model of its own for
    comparison (`client.work.alone`). That takes as long as the study, so a site does it whose file says so: new files
    do. `secure_sum_with` are the fingerprints of other sites' keys: the site's update leaves in a sum with some of
    these, and in no other way (None = in no sum). `share_last_layer`: at a study's end the statistics that
    a last layer for all is solved from leave, and its own last layer (`client.work.last_layer`); that is
    `LAST_LAYER_IS`.
    """

    minimum_subjects: int = 10
    answers_per_model: int | None = 10
    answers_per_day: int | None = 1000
    max_deadline_s: int = 3600
    metrics: list[str] | None = None
    scenarios: list[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    studies: Literal["any", "ask"] = "any"
    alone: bool = False
    secure_sum_with: list[str] | None = None
    share_last_layer: bool = False

    def allows(self, scenario: str) -> bool:
        """Whether the rules allow this scenario."""
        return self.scenarios is None or any(_allows(text, scenario) for text in self.scenarios)


@dataclass(frozen=True, kw_only=True)
class PrivacyBudget:
    """What may be spent on each of a set of subjects, for life and over all runs: at most `epsilon` at `delta`.
    `ledger` and `ledger_head`, the copy of its head, are files in different folders. `subjects` is the public number of
    these subjects."""

    ledger: str
    ledger_head: str
    subjects: int
    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class PrivateValidation(PrivacyBudget):
    """Validation figures of a site that trains privately, within a budget of the validation subjects. Each subject's
    figure is clipped to a public range (`metrics`: name -> [lowest, highest]). What leaves is the mean over the public
    number of subjects, with Gaussian noise of `noise_multiplier`."""

    noise_multiplier: float
    metrics: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class SitePrivacy(PrivacyBudget):
    """Rules of private training, within a budget of the training subjects. A site that has them trains privately or not
    at all.

    The public number of subjects is the site's weight in the average, and the denominator of its steps. A request may
    ask for no less noise than `min_noise_multiplier`, no larger clip than `max_grad_norm`, and no larger lots than
    `max_lot_rate`. For the life of the data `max_tests` runs get a test, whose figures have no noise. `validation` None
    = no validation figure leaves.
    """

    min_noise_multiplier: float = 0.5
    max_grad_norm: float = 1.0
    max_lot_rate: float = 1.0
    max_tests: int = 5
    validation: PrivateValidation | None = None


def check_task(task: Task, policy: Policy) -> None:
    """Raise PolicyError unless the site's rules allow scenario and settings of the task."""
    if policy.scenarios is not None:
        known = policy.allows(task.scenario)
        require(known, "policy.scenarios", asked=task.scenario, allowed=", ".join(policy.scenarios))
    for name, limit in policy.settings.items():
        value = setting(task, name)
        kept = value in limit if isinstance(limit, list) else _up_to(limit, value)
        require(kept, f"policy.settings.{name}", asked=value, allowed=limit)


def _allows(allowed: str, scenario: str) -> bool:
    """Whether the scenario is the allowed one, or a cell of the allowed vocabulary."""
    asked = parse_scenario(scenario)
    if is_vocabulary(allowed):
        return {*asked.modalities} <= {*parse_vocabulary(allowed).modalities}
    return asked == parse_scenario(allowed)


def require(kept: bool, rule: str, *, asked: object, allowed: object) -> None:
    """Raise PolicyError unless the rule is kept."""
    if not kept:
        raise PolicyError(f"{rule}: the request asks for {asked}, and this site allows {allowed}")


def setting(task: Task, name: str) -> Any:
    """A setting of the task by its dotted name, such as `training.local_steps`, as YAML has it: tuples are lists.

    Raises AttributeError.
    """
    value: Any = functools.reduce(getattr, name.split("."), task)
    if callable(value) or is_dataclass(value):
        raise AttributeError(f"{name} is no single setting")
    return [*value] if isinstance(value, tuple) else value


def limit(value: Any) -> Any:
    """What a limit in a site file means, which is text: a number, true or false, or the text; of a list, each of it."""
    if isinstance(value, list):
        return [limit(item) for item in value]
    if value in ("true", "false"):
        return value == "true"
    for number in (int, float):
        try:
            return number(value)
        except (TypeError, ValueError):
            continue
    return value


def _up_to(limit: float, value: Any) -> bool:
    """Whether a number, or every number of a list, is at most the limit."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(number, int | float) and number <= limit for number in values)


def validate_rules(policy: Policy, privacy: SitePrivacy | None) -> None:
    """Raise ConfigError, which names the setting, unless every rule makes sense."""
    _in_range(
        {
            "policy.minimum_subjects": (policy.minimum_subjects, 1, math.inf),
            "policy.max_deadline_s": (policy.max_deadline_s, 1, math.inf),
            "policy.answers_per_model": (policy.answers_per_model or 0, 0, math.inf),
            "policy.answers_per_day": (policy.answers_per_day or 0, 0, math.inf),
        }
    )
    for name in ("scenarios", "metrics", "secure_sum_with"):
        check_names(f"policy.{name}", getattr(policy, name))
    for text in policy.scenarios or ():
        wanted(text)
    if unknown := sorted(set(policy.metrics or ()) - ALLOWED_METRICS):
        raise ConfigError(f"policy.metrics: {', '.join(unknown)} is no metric that a site could tell")
    for key in policy.secure_sum_with or ():
        if not key.startswith("SHA256:"):
            raise ConfigError(f"policy.secure_sum_with: {key} is no fingerprint of a key; write SHA256:...")
    if policy.share_last_layer and (privacy or policy.secure_sum_with is not None):
        raise ConfigError(
            f"policy.share_last_layer: the site's own last layer, {LAST_LAYER_IS}, would leave, which the section"
            " privacy and policy.secure_sum_with are to prevent; write share_last_layer: false, or leave them out"
        )
    for name, limit in policy.settings.items():
        if not isinstance(limit, list) and not (isinstance(limit, int | float) and math.isfinite(limit)):
            raise ConfigError(
                f"policy.settings: {name}: {limit} must be the largest number, or a list of what is allowed"
            )
        try:
            setting(Task(), name)
        except AttributeError:
            raise ConfigError(f"policy.settings: {name} is no setting of a task") from None
    if privacy is None:
        return
    _validate_budget("privacy", privacy)
    _in_range(
        {
            "privacy.min_noise_multiplier": (privacy.min_noise_multiplier, 0, math.inf),
            "privacy.max_grad_norm": (privacy.max_grad_norm, _ABOVE_0, math.inf),
            "privacy.max_lot_rate": (privacy.max_lot_rate, _ABOVE_0, 1),
            "privacy.max_tests": (privacy.max_tests, 0, math.inf),
        }
    )
    if (validation := privacy.validation) is None:
        return
    _validate_budget("privacy.validation", validation)
    _in_range({"privacy.validation.noise_multiplier": (validation.noise_multiplier, _ABOVE_0, math.inf)})
    for name, bounds in validation.metrics.items():
        if name not in METRIC_NAMES or len(bounds) != 2 or not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ConfigError(
                f"privacy.validation.metrics: {name}: {bounds} must be a metric with its lowest and highest value, for"
                " example psnr_db: [10, 40]"
            )


def check_names(setting: str, values: Iterable[object] | None) -> None:
    """Raise ConfigError unless the values of the setting are names, and no lists of these."""
    if odd := [value for value in values or () if not isinstance(value, str)]:
        raise ConfigError(f"{setting}: {odd[0]} is no name; write a list such as [a, b]")


def _validate_budget(section: str, budget: PrivacyBudget) -> None:
    _in_range(
        {
            f"{section}.subjects": (budget.subjects, 1, math.inf),
            f"{section}.epsilon": (budget.epsilon, _ABOVE_0, math.inf),
            f"{section}.delta": (budget.delta, _ABOVE_0, 1 / max(1, budget.subjects)),
        }
    )
    if budget.ledger == budget.ledger_head:
        raise ConfigError(
            f"{section}.ledger_head={budget.ledger_head} is the ledger itself; its copy belongs in another place, where"
            " a restored backup does not reach it"
        )


def _in_range(values: Mapping[str, tuple[float, float, float]]) -> None:
    """Raise ConfigError unless each name's value lies between its lowest and highest."""
    for name, (value, lowest, highest) in values.items():
        if not (math.isfinite(value) and lowest <= value <= highest):
            bounds = f"at least {lowest:g}" if highest == math.inf else f"between {lowest:g} and {highest:g}"
            raise ConfigError(f"{name}={value} must be {bounds}")
