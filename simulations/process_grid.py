"""The engine of processes: the in-process one, with the sites divided among `simulations.workers`."""

from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context, Message
from flwr.serverapp import ServerApp

from client.app import app as client_app
from simulations.local_grid import LocalGrid, answer, run_over
from simulations.workers import Workers

POLL_S = 0.2  # that a pull waits where nobody has answered


class ProcessGrid(LocalGrid):
    """Gives each message to the process of its node when it is pushed. A pull gives what is answered by now, so that no
    answer stays in memory while another site is slow."""

    def __init__(self, workers: Workers, node_configs: Sequence[Mapping[str, str]]) -> None:
        super().__init__(client_app, node_configs)
        self._workers = workers
        self._jobs: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = [*super().push_messages(messages)]
        for message_id in ids:
            message = self._taken(message_id)
            node_id = message.metadata.dst_node_id
            self._jobs[message_id] = self._workers.submit(_answer, message, self._contexts[node_id], at=node_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        known = [message_id for message_id in message_ids if message_id in self._jobs]
        done = [name for name in known if self._workers.is_done(self._jobs[name], within_s=POLL_S)]
        return (self._workers.result(self._jobs.pop(message_id)) for message_id in done)


def _answer(message: Message, context: Context) -> Message:
    return answer(client_app, message, context)


def run_in_processes(
    server_app: ServerApp, *, node_configs: Sequence[Mapping[str, str]], run_config: Mapping[str, str], processes: int
) -> None:
    """As `simulations.local_grid.run_in_process`, in so many processes. Every result is the same, bit for bit."""
    with Workers(processes) as workers:
        run_over(ProcessGrid(workers, node_configs), server_app, run_config=run_config)
