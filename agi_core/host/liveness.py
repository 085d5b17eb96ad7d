"""Whether a program on this machine is alive, as its gRPC health service says.

The service says no more than that: Flower's says SERVING from its first second on, connected or not. A node is of use
when the coordinator sees it online, and a runner when it answers.
"""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

TIMEOUT_S = 3.0


def is_alive(port: int) -> bool:
    """Whether the health service on this port of 127.0.0.1 answers SERVING within 3 s."""
    no_proxy = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=no_proxy) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)
