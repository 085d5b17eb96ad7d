"""Patient-level differential privacy: noise, the private step, its accounting, and the ledger that outlives a run."""
