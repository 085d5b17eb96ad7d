"""Built-in synthetic data: NIfTI trees in the layouts of IXI and BraTS, from two real anatomies (docs/phantom.md)."""
