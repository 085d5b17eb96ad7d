"""Scores of synthetic volumes against real ones, whatever made them: no run, no model."""
