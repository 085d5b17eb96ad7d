"""The terminal of our programs."""

from rich.console import Console


def plain_console() -> Console:
    """A console that prints text as it is: brackets are no markup, `:AB:` in a fingerprint is no picture, nothing is
    coloured by guess, no line is cut.

    Names from outside, such as a site's or a file's, are safe to print on it.
    """
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
