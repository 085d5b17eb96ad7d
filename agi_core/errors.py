"""Errors: a small typed tree. Each has a `.public` text that is safe to leave a site.

`str(error)` is for the person at the terminal: what was wrong, where, and what to do next; it may name files and
subjects. `error.public` is for the other side of a network: a fixed sentence per class, without paths, identifiers or
values.
"""


class AgiError(Exception):
    """Base of all expected errors. Shown without a traceback; `public` is all that another machine ever sees."""

    public = "The site could not complete the request."


class ConfigError(AgiError):
    """A setting is unknown, malformed or contradicts another."""

    public = "The configuration was refused."


class DataError(AgiError):
    """Scans are missing, unreadable or do not fit together."""

    public = "The site's data does not fit the request."


class AbsentError(DataError):
    """Nobody in a folder of scans has all modalities that are asked for."""


class ApartError(AbsentError):
    """Each of them is there, and nobody has them all."""


class ProtocolError(AgiError):
    """A message does not follow the contract of `agi_core.protocol`."""

    public = "The message does not follow the protocol."


class MismatchError(ProtocolError):
    """The two sides disagree in a value that is no secret: the protocol's version, the model's hash."""

    def __init__(self, what: str, *, theirs: object, ours: object) -> None:
        self.public = f"{what}: the message has {theirs}, this program {ours}; install one release everywhere."
        super().__init__(self.public)


class SignatureError(ProtocolError):
    """A request does not carry the signature of the site's coordinator."""

    public = "The request is not signed for this site by its coordinator."


class TransportError(ProtocolError):
    """A weight does not fit into the dtype in which it should travel."""

    public = "A weight is too large for float16 transport; run with federation.transport=float32."


class DeadlineError(AgiError):
    """A site's work was abandoned at its deadline."""

    public = "The site did not finish within the deadline."


class DivergedError(AgiError):
    """Training gave weights that are not finite."""

    public = "The site's training gave values that are not finite."


class ExhaustedError(AgiError):
    """The memory of the machine or of its GPU is too small for the work."""

    public = "The site ran out of memory."


class StoppedError(AgiError):
    """The site's program was stopped from outside while it was working."""

    public = "The site was stopped while it was working."


class RunError(AgiError):
    """A run folder cannot be used, or a run cannot go on."""

    public = "The run cannot go on."


class PrivacyError(AgiError):
    """Privacy cannot be kept as configured, or its record cannot be trusted."""

    public = "The site's privacy rules do not allow the request."


class BusyError(PrivacyError):
    """Another program of the site has the privacy ledger in use. It is free again soon: the site does not sit out."""

    public = "The site's privacy ledger is in use by another of its programs."


class PolicyError(AgiError):
    """The site's own rules do not allow the request. Nothing is broken: the site sits out."""

    public = "The request is not allowed by the site's policy."


class NotPrivateError(PolicyError):
    """The site's file has no section `privacy`, which private training needs. Nothing is broken: the site sits out."""

    public = "The site has no privacy budget (section privacy of its site file), so it does not train privately."


class NotHeldError(PolicyError):
    """The request is about modalities that the site does not offer. Nothing is broken: the site sits out."""

    public = "The site does not offer the modalities of the request."


class NoneHeldError(NotHeldError):
    """The site offers the modalities of the request, but its scans do not hold them, or nobody's who trains. The site
    sits out."""

    public = "The site offers the modalities of the request, but none of its subjects who train has them all."


class BudgetError(PrivacyError):
    """The planned steps would spend more than the site's privacy budget. Nothing is broken: the site sits out."""

    public = "The site's privacy budget is exhausted."
