"""Built-in synthetic data: NIfTI trees in the layouts of IXI and BraTS, from four real anatomies (docs/phantom.md)."""
