"""What the synchronous client needs of gRPC and of time. `_shell_async` is the same for asyncio; the clients above them are one text."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc

from ._errors import Fault, cut_short, fault_of, late, not_connected

A = TypeVar("A")
Channel = grpc.Channel
Metadata = tuple[tuple[str, str], ...]


def open_channel(endpoint: str, options: list[tuple[str, Any]], credentials: grpc.ChannelCredentials | None = None) -> Channel:
    if credentials is not None:
        return grpc.secure_channel(endpoint, credentials, options=options)
    return grpc.insecure_channel(endpoint, options=options)


def close_channel(channel: Channel) -> None:
    channel.close()


sleep = time.sleep


def run(work: Callable[..., A], *args: Any) -> A:
    return work(*args)


def unary(method: Any, request: Any, within: float, metadata: Metadata = ()) -> Any:
    try:
        return method(request, timeout=within, metadata=metadata)
    except grpc.RpcError as error:
        raise late(within) if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata() else fault_of(error) from None
    except ValueError as error:  # What gRPC says of a channel that was closed meanwhile.
        raise not_connected(str(error)) from None


def each(methods: Sequence[Any], request: Any, within: float, metadata: Metadata = ()) -> list[Any]:
    """Asks all at once. What came of each: an answer or a Fault."""

    def begin(method: Any) -> Any:
        try:
            return method.future(request, timeout=within, metadata=metadata)
        except ValueError as error:
            return not_connected(str(error))

    def end(call: Any) -> Any:
        if isinstance(call, Fault):
            return call
        try:
            return call.result()
        except grpc.RpcError as error:
            return late(within) if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata() else fault_of(error)
        except grpc.FutureCancelledError:  # The channel was closed meanwhile.
            return not_connected("the channel was closed")

    return [end(call) for call in [begin(method) for method in methods]]


class Stream(Generic[A]):
    """Messages of a stream, each within its time. gRPC has a deadline for streams as a whole only, so a thread watches over the next message."""

    def __init__(self, method: Any, request: Any, metadata: Metadata = ()) -> None:
        try:
            self._call = method(request, metadata=metadata)
        except ValueError as error:
            raise not_connected(str(error)) from None
        self._due = math.inf
        self._late = False
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    def next(self, within: float, ends: bool) -> A | None:
        """None at the end, which is a fault unless `ends`."""
        self._due = time.monotonic() + within
        if self._watch is None:
            self._watch = threading.Thread(target=self._keep_watch, args=(within,), name="devicedb-stream", daemon=True)
            self._watch.start()
        try:
            message: A = next(self._call)
            return message
        except StopIteration:
            if not ends:
                raise cut_short() from None
            return None
        except grpc.RpcError as error:
            raise late(within) if self._late else fault_of(error) from None
        finally:
            self._due = math.inf

    def _keep_watch(self, pause: float) -> None:
        while not self._over.wait(pause):
            left = self._due - time.monotonic()
            if left <= 0:
                self._late = True
                self._call.cancel()
                return
            pause = min(max(left, 0.01), 1.0)

    def cancel(self) -> None:
        self._over.set()
        self._call.cancel()
