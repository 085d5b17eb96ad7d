"""Why a request was refused, for the person at this site. It does not leave the site, but a terminal may be kept in a
log that more people read than the scans."""

from agi_core.errors import AgiError, DeadlineError, MismatchError, NoneHeldError, PolicyError, PrivacyError

IN_FULL = (PolicyError, PrivacyError, MismatchError, DeadlineError)
"""Errors whose words name rules, settings, versions, times and the ledger's own files alone."""


def cause(error: AgiError) -> str:
    """The error's own words, or its public sentence where those could name subjects or files."""
    in_full = isinstance(error, IN_FULL) and not isinstance(error, NoneHeldError)  # this one says who lacks what, where
    return str(error) if in_full else f"{error.public} In full: details.log."
