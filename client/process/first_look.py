"""What is said of the scans before a site connects. `--check` says more, and a site may join without it."""

from pathlib import Path

from agi_core.cells import wanted
from agi_core.data.scans import discover
from agi_core.errors import AgiError
from client.site.file import DeployedSite
from client.site.images import images_of
from client.site.split import known_as, renamed


def look_at_scans(site: DeployedSite, scenario: str) -> str:
    """A warning about who is who among the subjects of a scenario, or about scans that cannot be used; "" where all is
    well. Scans that neither the site nor `--check` has read before are read now."""
    state_dir, listed = Path(site.state_dir), site.data.subjects
    try:
        modalities, least = wanted(scenario)
        found = discover(site.data.scans, modalities, least=least).subjects
        chosen = [subject for subject in found if listed is None or subject.id in listed]
        return renamed(known_as(state_dir, images_of(state_dir, chosen, site=site.site)))
    except AgiError as error:
        return f"{str(error).rstrip('.')}. Until this is mended, the site refuses requests for {scenario}."
