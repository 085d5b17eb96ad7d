"""The networks. This package imports torch alone, so that it runs where nothing else is installed."""
