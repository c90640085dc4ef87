"""A server that does what a test tells it, for faults that a real one cannot easily be brought to commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from devicedb.v1 import cluster_pb2

Handler = Callable[[bytes, grpc.ServicerContext], Any]


class Fake(grpc.GenericRpcHandler):
    """Answers calls by their last name; requests and answers are bytes. What it does not know is UNIMPLEMENTED."""

    def __init__(self, streams: dict[str, Handler] | None = None, credentials: grpc.ServerCredentials | None = None, **calls: Handler) -> None:
        self.calls, self.streams = calls, streams or {}
        self.seen: list[tuple[str, bytes]] = []
        # The cluster that each of those calls was for; none where it did not say.
        self.meant: list[str | None] = []
        # Who made each of them: what it said, and its certificate over TLS.
        self.callers: list[tuple[str | None, bytes]] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((self,))
        at = "127.0.0.1:0"
        self.endpoint = f"127.0.0.1:{self.server.add_secure_port(at, credentials) if credentials else self.server.add_insecure_port(at)}"

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]

        def note(request: bytes, context: grpc.ServicerContext) -> None:
            self.seen.append((name, request))
            said = {key: str(value) for key, value in context.invocation_metadata()}
            self.meant.append(said.get("devicedb-cluster-id"))
            self.callers.append((said.get("authorization"), b"".join(context.auth_context().get("x509_pem_cert", ()))))

        def answer(request: bytes, context: grpc.ServicerContext) -> Any:
            note(request, context)
            return self.calls[name](request, context)

        def flow(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            note(request, context)
            yield from self.streams[name](request, context)

        if name in self.calls:
            return grpc.unary_unary_rpc_method_handler(answer)
        return grpc.unary_stream_rpc_method_handler(flow) if name in self.streams else None

    def __enter__(self) -> Fake:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(0).wait()


def refuse(code: str, reason: str | None, domain: str = "devicedb", message: str = "told", rest: float | None = None) -> Handler:
    """Ends with this code and, if it has one, reason, and after how many seconds to come again."""

    def handler(_: bytes, context: grpc.ServicerContext) -> Any:
        if reason is not None:
            detail = any_pb2.Any()
            detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
            details = [detail]
            if rest is not None:
                details.append(any_pb2.Any())
                details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=round(rest * 1e9))))
            status = status_pb2.Status(code=grpc.StatusCode[code].value[0], message=message, details=details)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode[code], message)

    return handler


def identity(cluster_id: str, lineage: str = "1") -> Handler:
    """Says who it is."""
    return lambda *_: cluster_pb2.GetIdentityResponse(cluster_id=cluster_id, lineage=lineage).SerializeToString()


def in_turn(*handlers: Handler) -> Handler:
    """One after the other, the last again and again."""
    left = list(handlers)
    return lambda request, context: (left.pop(0) if len(left) > 1 else left[0])(request, context)
