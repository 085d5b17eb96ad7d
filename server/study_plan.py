"""The plan of a deployed run over a vocabulary: by what sites offer, which is public. Whether their scans hold it, the
sites alone know."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from agi_core.cell_plan import Offers, Plan, check_offer, check_offers
from agi_core.cells import parse_vocabulary
from agi_core.config.schema import FederationConfig, MisalignConfig, RunConfig
from agi_core.errors import ConfigError
from agi_core.run.event_log import events_of
from agi_core.run.events import CellNotHeld
from agi_core.run.initial_weights import weights_file
from agi_core.scenario import Scenario
from server.aggregation import check_sites
from server.registry import Entry


def with_offers(config: RunConfig, registered: Mapping[str, Entry]) -> RunConfig:
    """The configuration with what each of its sites offers: by `federation.offers`, else as the site is registered.

    Raises:
        ConfigError: nobody has said what a site offers, the sites cannot work together on the vocabulary, or a cell has
            too few sites for a secure sum.
    """
    vocabulary, federation = parse_vocabulary(config.scenario), config.federation
    told = {
        site: [name for name in entry.modalities if name in vocabulary.modalities]
        for site, entry in registered.items()
        if entry.modalities
    }
    everybody = (*federation.sites, *federation.unseen_sites)
    offers = {site: told[site] for site in everybody if site in told} | federation.offers
    if unknown := [site for site in everybody if site not in offers]:
        two = ", ".join(vocabulary.modalities[:2])
        raise ConfigError(
            f"{', '.join(unknown)}: nobody has said which modalities it offers; write"
            f" federation.offers='{{{unknown[0]}: [{two}], ...}}', or register it again with --modalities"
        )
    training = {site: names for site, names in offers.items() if site not in federation.unseen_sites}
    check_offers(training, vocabulary, held={site: dict.fromkeys(training[site], 1) for site in federation.sites})
    for site in federation.unseen_sites:
        check_offer(site, offers[site], vocabulary)
    config = dataclasses.replace(config, federation=dataclasses.replace(federation, offers=offers))
    plan = plan_of(config)
    for cell in plan.trained:
        cell_config(config, cell, plan)
    return config


def check_start(config: RunConfig) -> None:
    """Raise ConfigError where a run over a vocabulary begins with a file of weights."""
    if path := weights_file(config):
        raise ConfigError(
            f"initial_weights={path}: a file fits one number of sources, and {config.scenario} has several; leave it"
            " out, or in a simulation write public"
        )


def plan_of(config: RunConfig) -> Plan:
    """Which cells are trained: a site trains each cell of which it offers all modalities."""
    vocabulary, federation = parse_vocabulary(config.scenario), config.federation
    offers = {site: federation.offers.get(site, ()) for site in federation.sites}
    holders = {cell: _offering(cell, offers) for cell in vocabulary.cells}
    return Plan.of(vocabulary, holders, offers=offers, local_steps=config.training.local_steps)


def not_held(run_dir: Path) -> set[str]:
    """The cells of the plan that nobody trains after all, because no site's scans hold them. So it was when the sites
    were asked, and so it stays for this run."""
    return {event.cell for event in events_of(run_dir, CellNotHeld)} if (run_dir / "events.jsonl").is_file() else set()


def cell_config(config: RunConfig, cell: Scenario, plan: Plan) -> RunConfig:
    """The configuration of a cell's own run. Steps and budget of a private site are shared among the cells that compete
    there. With fewer holders than the aggregation needs, it is the mean. Unseen sites are those that offer all of it.

    Raises:
        ConfigError: the cell has too few holders for a secure sum.
    """
    training, privacy, whole, sites = config.training, config.privacy, config.federation, plan.trained[cell]
    misalign = training.misalign if training.misalign.source in cell.sources else MisalignConfig()
    if privacy.on:
        privacy = dataclasses.replace(privacy, epsilon=min(_epsilon_at(site, config, plan) for site in sites))
    unseen = _offering(cell, {site: whole.offers.get(site, ()) for site in whole.unseen_sites})
    federation = dataclasses.replace(
        whole,
        sites=sites,
        unseen_sites=unseen,
        subjects={site: count for site, count in whole.subjects.items() if site in (*sites, *unseen)},
        keys={site: key for site, key in whole.keys.items() if site in (*sites, *unseen)},
        offers={},
        quorum=None if whole.quorum is None else min(whole.quorum, len(sites)),
    )
    try:
        check_sites(federation)
    except ConfigError:
        federation = _by_mean(federation, cell)
    return dataclasses.replace(
        config,
        scenario=str(cell),
        reference=config.reference if config.reference in cell.sources else None,
        training=dataclasses.replace(training, local_steps=plan.steps(cell), misalign=misalign),
        privacy=privacy,
        federation=federation,
    )


def _epsilon_at(site: str, config: RunConfig, plan: Plan) -> float:
    """What the site can afford for each cell that it trains. Where another holder can afford less, it costs less."""
    from agi_core.privacy.plan import epsilon_of_each  # here: Opacus takes seconds

    steps = sorted(config.rounds * plan.steps(cell) for cell, sites in plan.trained.items() if site in sites)
    return epsilon_of_each(config.privacy, steps=tuple(steps), with_prior=config.model.prior != "none")


def _by_mean(federation: FederationConfig, cell: Scenario) -> FederationConfig:
    federation = dataclasses.replace(federation, aggregation="mean")
    try:
        check_sites(federation)
    except ConfigError as error:
        raise ConfigError(f"cell {cell}: {error}") from None
    return federation


def _offering(cell: Scenario, offers: Offers) -> tuple[str, ...]:
    return tuple(site for site, names in offers.items() if {*cell.modalities} <= {*names})
