"""A gRPC health service, as each of Flower's programs has one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server


@contextmanager
def health_service(*, serving: bool = True, port: int = 0) -> Iterator[int]:
    """A real service; its port (0: any)."""
    servicer = HealthServicer()
    servicer.set("", HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(1))
    add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
