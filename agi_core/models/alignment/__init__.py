"""Alignment inside the network: every source is brought onto the reference, without parameters."""
