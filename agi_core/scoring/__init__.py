"""Scores of synthetic volumes against real ones, whatever made them. `made_by_run` alone knows runs and models."""
