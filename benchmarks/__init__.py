"""Measurements that print a table. A package, because one of our dependencies installs another `benchmarks`."""
