"""`python -m client.node`: Flower's `flower-supernode`, with its own arguments, that ends when its work has ended.

In flwr 1.41 an error that is not tried again (a TLS handshake that a firewall cuts, an answer like 500) ends the loop
that talks to the coordinator, but not the process: the thread of the Runtime API keeps it, alive and deaf, for ever.
Here the process ends, and whoever started it starts it again.
"""

import os

from flwr.supernode.cli import flower_supernode

if __name__ == "__main__":
    flower_supernode()  # returns only then; a stop by signal ends the process in there
    os._exit(1)
