"""What a run is: the schema of its settings, how they are read, and what a new run starts from."""
