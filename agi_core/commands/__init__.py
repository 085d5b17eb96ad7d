"""The commands of `python -m agi_core`, a module each; `agi_core.__main__` imports the one that was typed."""
