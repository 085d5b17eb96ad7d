"""One run: its folder, its events, its checkpoints, its progress, the weights that it starts from."""
