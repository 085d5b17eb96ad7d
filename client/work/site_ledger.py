"""The ledgers of a site, opened: one for training, one for validation, each for the life of the data.

`state_dir/ledgers.json` keeps which ledgers these are. So a site file that names another path starts no new budget.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agi_core.errors import PrivacyError
from agi_core.host import atomic
from agi_core.privacy.ledger import Ledger, open_ledger
from client.site.file import Site
from client.site.policy import PrivacyBudget, PrivateValidation

NAME = "ledgers.json"


@contextmanager
def open_site_ledger(site: Site, budget: PrivacyBudget) -> Iterator[Ledger]:
    """The ledger of one of the site's budgets, for this process alone.

    Raises:
        BusyError: see `open_ledger`.
        PrivacyError: see there; or what was spent before stands in another ledger.
    """
    path, head_path, what = Path(budget.ledger), Path(budget.ledger_head), _name(budget)
    if (begun := _read(site).get(what)) and not (path.exists() or head_path.exists()):
        raise _another(path, what, begun)
    with open_ledger(path, head_path=head_path, site=site.site) as ledger:
        known = _read(site)  # again: who had the ledger until now may have written there
        if (begun := known.get(what)) is None:
            known[what] = {"ledger": ledger.identity, "path": str(path)}
            atomic.write_json(Path(site.state_dir) / NAME, known)
        elif begun["ledger"] != ledger.identity:
            raise _another(path, what, begun)
        yield ledger


def _another(path: Path, what: str, begun: dict[str, str]) -> PrivacyError:
    return PrivacyError(
        f"privacy ledger {path} is not the one that this site began for {what}, which was at {begun['path']}: put that"
        " one back, with its .key and its ledger_head, or name its path in the site file; subjects never used before"
        " belong to a site with a state_dir of its own"
    )


def has_begun(site: Site, budget: PrivacyBudget) -> bool:
    """Whether there is a ledger of this budget, or was one. Raises PrivacyError as `open_site_ledger` does."""
    return Path(budget.ledger).exists() or _name(budget) in _read(site)


def _name(budget: PrivacyBudget) -> str:
    return "validation" if isinstance(budget, PrivateValidation) else "training"


def _read(site: Site) -> dict[str, dict[str, str]]:
    path = Path(site.state_dir) / NAME
    try:
        known = json.loads(path.read_bytes()) if path.exists() else {}
        return {what: {"ledger": str(one["ledger"]), "path": str(one["path"])} for what, one in known.items()}
    except OSError as error:
        raise PrivacyError(
            f"{path} cannot be read: {error.strerror}; mend its permissions or its disk, and keep it"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PrivacyError(
            f"{path} is damaged, so it is unknown which ledgers are this site's: put back its last copy, or delete"
            " it if the ledgers of the site file are those that the site began with"
        ) from None
