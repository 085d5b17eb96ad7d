"""The report of a run: events, summary and example slices as one self-contained HTML file. Plotting lives here only."""
