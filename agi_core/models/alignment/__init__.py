"""Bringing every source onto the reference inside the network, without parameters."""
