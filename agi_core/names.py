"""Names from outside, of sites and of files: what a table, a folder or a person calls something.

A name from outside becomes a file's name, YAML, HTML, the label of a figure, and a line of a terminal or of a log. So a
site's name is made harmless once, where it is read, and is safe in every use from then on. Names of files are shown
through `shown`. Settings are read as plain text by `agi_core.config.structured`.
"""

import re
import unicodedata

_DEPLOYED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_STEM = 100  # characters; file systems allow 255 bytes, and suffixes and temporary names come on top
_DRAWN_ALIKE = str.maketrans("авекмнорстухѕіјԁԛԝһαινορτυχκμ01i", "abekmhopctyxsijdqwhaivoptuxkmoll") | {ord("ı"): "l"}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi), surrogate, private, unassigned, lines


def is_site_name(text: str) -> bool:
    """Whether a real site may have this name: 1 to 64 of A-Z, a-z, 0-9, - and _, first a letter or digit.

    A hospital and the coordinator type the name, so any other is refused there and never changed.
    """
    return _DEPLOYED.fullmatch(text) is not None


def site_name(text: str) -> str | None:
    """What a site is called in the program that a table calls `text`; None where that leaves nothing, or too much.

    Tables were made by others and name hospitals as hospitals are named, so the name is mapped and not refused. Letters
    and digits of every script, - and _ stay, in Unicode's NFKC form. Every other run of characters is one _, and none
    stands at an end: `Guy's Hospital` is `Guy_s_Hospital`, `../../etc` is `etc`. `site_map` refuses two sites that
    would be called the same.
    """
    kept = (c if c in "-_" or unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFKC", text))
    name = re.sub("__+", "_", "".join(kept)).strip("-_")
    return name if name and len(file_stem(name)) <= _MAX_STEM else None


def skeleton(text: str) -> str:
    """What is left of a name for a person who reads it in haste: two names with one skeleton look alike.

    Letters of other scripts that are drawn as Latin ones become these, capitals small letters, and I, l and 1, O and 0
    one sign each. It is a short list, not Unicode's own of thousands (UTS 39).
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_DRAWN_ALIKE)


def file_stem(site: str) -> str:
    """The start of a file's name for a site: ASCII, which is the same in every locale. Other names are in punycode (RFC
    3492), and so are those that look like it, so that it is one to one."""
    plain = site.isascii() and not site.startswith("xn--")
    return site if plain else f"xn--{site.encode('punycode').decode()}"


def shown(text: str) -> str:
    """The text with what cannot be seen written as escapes: no line break, control or bidirectional character is left,
    and no byte that is not UTF-8. Text that is its own `shown` is plain."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN else c for c in text)
