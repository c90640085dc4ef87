"""What the asyncio client needs of gRPC and of time. `_shell_sync` is the same for threads; the clients above them are one text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from ._errors import Fault, cut_short, fault_of, late, not_connected

A = TypeVar("A")
Channel = grpc.aio.Channel
Metadata = tuple[tuple[str, str], ...]
END: Any = vars(grpc.aio)["EOF"]


def open_channel(endpoint: str, options: list[tuple[str, Any]], credentials: grpc.ChannelCredentials | None = None) -> Channel:
    if credentials is not None:
        return grpc.aio.secure_channel(endpoint, credentials, options=options)
    return grpc.aio.insecure_channel(endpoint, options=options)


async def close_channel(channel: Channel) -> None:
    await channel.close()


sleep = asyncio.sleep


async def run(work: Callable[..., A], *args: Any) -> A:
    """Runs what blocks on the processor or the disk without holding up others. It ends before its caller does, also when that is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _closed() -> BaseException:
    """What a cancellation means: gRPC cancels the calls of a channel that is closed. Python 3.10 cannot tell that from a task that is cancelled."""
    task = asyncio.current_task()
    asked_to = getattr(task, "cancelling", lambda: 1)()
    return asyncio.CancelledError() if asked_to else not_connected("the channel was closed")


async def unary(method: Any, request: Any, within: float, metadata: Metadata = ()) -> Any:
    try:
        return await method(request, timeout=within, metadata=metadata)
    except asyncio.CancelledError:
        raise _closed() from None
    except grpc.aio.AioRpcError as error:
        raise late(within) if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not error.trailing_metadata() else fault_of(error) from None


async def each(methods: Sequence[Any], request: Any, within: float, metadata: Metadata = ()) -> list[Any]:
    """Asks all at once. What came of each: an answer or a Fault."""
    found = await asyncio.gather(*(unary(method, request, within, metadata) for method in methods), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, Fault):
            raise one
    return found


class Stream(Generic[A]):
    """Messages of a stream, each within its time."""

    def __init__(self, method: Any, request: Any, metadata: Metadata = ()) -> None:
        self._call = method(request, metadata=metadata)

    async def next(self, within: float, ends: bool) -> A | None:
        """None at the end, which is a fault unless `ends`."""
        try:
            message = await asyncio.wait_for(self._call.read(), within)
        except asyncio.CancelledError:
            raise _closed() from None
        except asyncio.TimeoutError:
            raise late(within) from None
        except grpc.aio.AioRpcError as error:
            raise fault_of(error) from None
        if message is not END:
            found: A = message
            return found
        fault = await self._ended()
        if fault is not None:
            raise fault
        if not ends:
            raise cut_short()
        return None

    async def _ended(self) -> Fault | None:
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return None
        return fault_of(grpc.aio.AioRpcError(code, await self._call.initial_metadata(), await self._call.trailing_metadata(), await self._call.details()))

    def cancel(self) -> None:
        self._call.cancel()
