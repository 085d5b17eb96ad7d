"""Built-in synthetic data: NIfTI trees in the layouts of IXI and BraTS, from two real anatomies (docs/phantom.md)."""

from agi_core.data.phantom.tree import parse_sites, phantom_matches, write_phantom

__all__ = ["parse_sites", "phantom_matches", "write_phantom"]
