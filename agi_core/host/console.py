"""The terminal of our programs."""

from rich.console import Console


def plain_console() -> Console:
    """A console that prints text as it is: brackets are no markup, `:AB:` in a fingerprint is no picture, nothing is
    coloured by guess, no line is cut.

    Names from outside, such as a site's or a file's, are safe to print on it.
    """
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: object, *, longest: int = 64) -> str:
    """A stranger's text on one line, shortened, without the escape codes of a terminal."""
    return "".join(character for character in " ".join(str(text).split())[:longest] if character.isprintable())
