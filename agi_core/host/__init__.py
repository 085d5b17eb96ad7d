"""The machine under the programs: files, processes, keys, command lines. Knows nothing of images or federations."""
