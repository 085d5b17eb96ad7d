"""The networks. Imports torch alone, so that it runs where nothing else is installed."""
