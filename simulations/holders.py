"""A run over a vocabulary: from a folder of scans to who holds what, and to the sites of each cell.

A site's subjects are split once, whatever they have. So nobody who trains in one cell tests in another.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from agi_core.cell_plan import Plan, check_offers
from agi_core.cells import parse_vocabulary, wanted
from agi_core.config.schema import RunConfig
from agi_core.data.fingerprint import fingerprints
from agi_core.data.partition import Partition, partition
from agi_core.data.scans import Scans, Subject, discover, held_by
from agi_core.errors import ConfigError
from agi_core.names import file_stem
from agi_core.scenario import Scenario
from client.site.split import lasting_split
from server.study_plan import check_start
from simulations.sites import Federation, at_sites, split_sites


def find_holders(config: RunConfig) -> tuple[RunConfig, Federation]:
    """Discover and partition the subjects that have two modalities of the vocabulary or more; the configuration comes
    back with its sites and with what they offer.

    Raises:
        DataError, ConfigError: see `find_sites`; or the sites cannot work together on the vocabulary.
    """
    check_start(config)
    vocabulary = parse_vocabulary(config.scenario)
    modalities, least = wanted(config.scenario)
    discovery = discover(Scans.of(config.data), modalities, least=least)
    if not all(held_by(discovery.subjects, modalities).values()):
        discover(Scans.of(config.data), modalities)  # it says what is there instead
    parts = partition(discovery.subjects, clients=config.clients, scheme=config.partition, seed=config.seed)
    tests, splits = split_sites(config, parts.training)
    held = {site: held_by(subjects, modalities) for site, subjects in parts.training.items()}
    found = {site: [name for name, count in counts.items() if count] for site, counts in held.items()}
    offers = found | config.federation.offers
    check_offers(offers, vocabulary, held=held)
    everybody = {**parts.training, **parts.unseen}
    federation = dataclasses.replace(
        config.federation,
        sites=tuple(sorted(parts.training)),
        unseen_sites=tuple(sorted(parts.unseen)),
        subjects={site: len(members) for site, members in sorted(everybody.items())},
        offers=offers,
    )
    content = fingerprints(subject for subjects in everybody.values() for subject in subjects)
    return dataclasses.replace(config, federation=federation), Federation(
        parts.training, parts.unseen, discovery, (), {}, content, tests=tests, splits=splits
    )


def plan_of(config: RunConfig, federation: Federation) -> Plan:
    """Which cells are trained: a site trains a cell of which it offers all modalities, and one training subject has
    them."""
    vocabulary, offers = parse_vocabulary(config.scenario), config.federation.offers
    holders = {}
    for cell in vocabulary.cells:
        complete = complete_for(cell, federation).keys()
        holders[cell] = [
            site
            for site, split in sorted(federation.splits.items())
            if {*cell.modalities} <= {*offers[site]} and complete & {*split.train}
        ]
    plan = Plan.of(vocabulary, holders, offers=offers, local_steps=config.training.local_steps)
    if not plan.trained:
        raise ConfigError(f"no training subject of any site has two of the modalities of {vocabulary} that it offers")
    return plan


def sites_of(config: RunConfig, cell: Scenario, plan: Plan, whole: Federation) -> tuple[RunConfig, Federation]:
    """The sites of a trained cell, with those of their subjects that have its modalities. A site that offers the
    sources alone is scored like an unseen one, on its test subjects, where the folder has the target that it hides.

    Args:
        config: of the cell. whole: everybody, as found for the vocabulary.

    Raises:
        DataError, ConfigError: see `find_sites`.
    """
    discovery = discover(Scans.of(config.data), cell.modalities)
    complete = {subject.id: subject for subject in discovery.subjects}
    training = {site: _among(complete, whole.training[site]) for site in plan.trained[cell]}
    parts = Partition(training, unseen=scored_at(cell, plan, whole, complete=complete))
    return at_sites(config, discovery, parts, tests=whole.tests, splits=whole.splits)


def scored_at(
    cell: Scenario, plan: Plan, whole: Federation, *, complete: Mapping[str, Subject]
) -> dict[str, tuple[Subject, ...]]:
    """{site that does not train the cell: the subjects that it is scored on}: all of an unseen hospital, the test
    subjects of one that offers the sources. `complete` are the subjects with all modalities of the cell."""
    tested = {
        site: [subject for subject in subjects if subject.id in whole.splits[site].test]
        for site, subjects in whole.training.items()
        if site not in plan.trained.get(cell, ()) and {*cell.sources} <= {*plan.offers[site]}
    }
    found = {site: _among(complete, subjects) for site, subjects in {**tested, **whole.unseen}.items()}
    return {site: subjects for site, subjects in found.items() if subjects}


def complete_for(cell: Scenario, everybody: Federation) -> dict[str, Subject]:
    """{id: subject} of those with all modalities of the cell, with the visits that have them."""
    complete = {}
    for subject in (one for subjects in {**everybody.training, **everybody.unseen}.values() for one in subjects):
        if sessions := tuple(session for session in subject.sessions if {*cell.modalities} <= {*session.paths}):
            complete[subject.id] = dataclasses.replace(subject, sessions=sessions)
    return complete


def write_splits(run_dir: Path, federation: Federation) -> None:
    """Give every subject of every training site its part for good, before any cell gives parts to some of them."""
    for site, subjects in federation.training.items():
        ids = [subject.id for subject in subjects]
        tests = [subject_id for subject_id in ids if subject_id in federation.tests]
        lasting_split(
            run_dir.resolve() / "sites" / file_stem(site), {subject_id: [] for subject_id in ids}, tests=tests
        )


def _among(complete: Mapping[str, Subject], subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    return tuple(complete[subject.id] for subject in subjects if subject.id in complete)
