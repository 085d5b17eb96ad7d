"""The machine under the programs: files, processes, devices, keys, command lines, Flower's environment. It knows
nothing of images or federations."""
