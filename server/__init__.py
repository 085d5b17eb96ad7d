"""What runs at the coordinator: rounds, averaging, checkpoints. It never reads a scan."""
