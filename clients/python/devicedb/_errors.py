"""Errors by what the caller can do next, and the one table from what a server or a connection said to them.

A server of ours says its reason in google.rpc.ErrorInfo. A proxy, or another server, says only a code. A connection that breaks says nothing, and then
the request may have had its effect.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "devicedb"
DETAILS = "grpc-status-details-bin"
# How gRPC's core says that it never had a connection, so that nothing was sent.
NEVER_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")


class Error(Exception):
    """Something did not work. Its class says what the caller can do next; its text is one line: what, where, and what to do.

    Attributes:
        endpoint: who said so, as host:port; several, with commas, when nobody gave an answer.
        partial: the file that holds what a download has so far, or None.
    """

    def __init__(self, message: str, *, endpoint: str = "", partial: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.endpoint = endpoint
        self.partial = partial


class InvalidArgument(Error):
    """Mend the request: asking again gives the same answer."""


class NotFound(Error):
    """What was named does not exist."""


class Conflict(Error):
    """The state does not allow it: look, then decide."""


class Unavailable(Error):
    """No node could serve it within the timeout. It had no effect, or none that matters (a read, a download that can go on): try later."""


class UnknownOutcome(Error):
    """It may have had its effect. Repeat it with the same `request_id`: then it has its effect once.

    Attributes:
        request_id: 16 bytes to repeat a write with, or the uuid of a snapshot; None where repeating the call as it was is safe.
    """

    def __init__(self, message: str, *, endpoint: str = "", request_id: bytes | None = None) -> None:
        super().__init__(message, endpoint=endpoint)
        self.request_id = request_id


class Exhausted(Error):
    """It had no effect, since something is full: slow down."""


class Corrupt(Error):
    """Bytes are not what was written: fetch them again, restore, or replace."""


class NotPermitted(Error):
    """The caller may not do this, the node is not believed, or what stands before the cluster does not let it through. It had no effect."""


class Unauthenticated(NotPermitted):
    """The cluster does not know who asks: there is no certificate or token, or it is not believed. It had no effect."""


class Unsupported(Error):
    """This server does not know the call; it is older, or it is no DeviceDB."""


class LocalFile(Error):
    """A file or disk of this machine cannot be used; the OSError, if there was one, is `__cause__`."""


class OtherCluster(Error):
    """The endpoints are not all of one cluster, or not of the one that was named. It had no effect: mend the endpoints or the id."""


class Closed(Error):
    """The client was closed before, or during the call."""


class Failed(Error):
    """It was understood and did not work; the text says why."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an answer without success means: the error it ends as, and whether to ask again."""

    error: type[Error]
    again: bool = False
    slower: bool = False
    unsure: bool = False


REASONS: dict[str, Rule] = {
    "INVALID": Rule(InvalidArgument),
    "NOT_FOUND": Rule(NotFound),
    "CONFLICT": Rule(Conflict),
    "UNAVAILABLE": Rule(Unavailable, again=True),
    "UNKNOWN_OUTCOME": Rule(Unavailable, again=True, unsure=True),
    "EXHAUSTED": Rule(Exhausted, again=True, slower=True),
    "CORRUPT": Rule(Corrupt),
    "OTHER_CLUSTER": Rule(OtherCluster),
}
UNSURE = Rule(Unavailable, again=True, unsure=True)
CODES: dict[grpc.StatusCode, Rule] = {
    grpc.StatusCode.INVALID_ARGUMENT: Rule(InvalidArgument),
    grpc.StatusCode.OUT_OF_RANGE: Rule(InvalidArgument),
    grpc.StatusCode.NOT_FOUND: Rule(NotFound),
    grpc.StatusCode.ALREADY_EXISTS: Rule(Conflict),
    grpc.StatusCode.FAILED_PRECONDITION: Rule(Conflict),
    grpc.StatusCode.ABORTED: Rule(Conflict),
    grpc.StatusCode.PERMISSION_DENIED: Rule(NotPermitted),
    grpc.StatusCode.UNAUTHENTICATED: Rule(Unauthenticated),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Rule(Exhausted, again=True, slower=True),
    grpc.StatusCode.UNIMPLEMENTED: Rule(Unsupported),
    grpc.StatusCode.DATA_LOSS: Rule(Corrupt),
    # Said by whoever stands between, or by nobody: a proxy's 502 comes as UNAVAILABLE and a reset stream as INTERNAL or CANCELLED.
    grpc.StatusCode.UNAVAILABLE: UNSURE,
    grpc.StatusCode.INTERNAL: UNSURE,
    grpc.StatusCode.CANCELLED: UNSURE,
    grpc.StatusCode.UNKNOWN: UNSURE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNSURE,
}
NOT_SENT = Rule(Unavailable, again=True)
# The other side is not believed, or does not speak TLS: nothing was asked, and another endpoint may do.
NOT_TRUSTED = Rule(NotPermitted, again=True)
NO_TIME = "no time was left to ask"


class Fault(Exception):
    """One attempt that was not answered with success."""

    def __init__(self, rule: Rule, message: str, rest: float = 0.0) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        # Seconds to wait at least before the server is asked again.
        self.rest = rest


def late(seconds: float) -> Fault:
    """Nothing came in time."""
    return Fault(UNSURE, f"no answer within {seconds:.1f} s")


def not_connected(why: str) -> Fault:
    """The connection was not made, so nothing was asked."""
    return Fault(NOT_SENT, why)


def no_time() -> Fault:
    """It was its turn, and too late to ask."""
    return Fault(NOT_SENT, NO_TIME)


def cut_short() -> Fault:
    """The server is there and ended a stream before its end."""
    return Fault(UNSURE, "the stream ended before its end")


def fault_of(error: Any) -> Fault:
    """What a grpc.RpcError means."""
    code, message = error.code(), error.details() or ""
    reason, rest = _details(error)
    if reason in REASONS:
        return Fault(REASONS[reason], message, rest)
    if code is grpc.StatusCode.UNAVAILABLE and message.startswith(NEVER_CONNECTED):
        why = _distrust(message)
        return Fault(NOT_TRUSTED, why) if why else not_connected(_innermost(message))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = "no answer in time"
    return Fault(CODES.get(code, UNSURE), message or code.name)


def _details(error: Any) -> tuple[str | None, float]:
    """The reason, if it is one of ours, and after how many seconds to ask again."""
    reason, rest = None, 0.0
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS:
            try:
                status = status_pb2.Status.FromString(value)
            except Exception:  # What a stranger wrote there is not ours, whatever is wrong with it.
                return None, 0.0
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            for detail in status.details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    reason = str(info.reason)
                if detail.Unpack(retry):
                    rest = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return reason, rest


def _distrust(message: str) -> str | None:
    """Why a handshake failed, in plain words; None where none did."""
    if "WRONG_VERSION_NUMBER" in message:
        return "what listens there does not speak TLS; leave tls out to speak without encryption"
    if "Hostname Verification Check failed" in message or " is not in peer certificate" in message:
        return "the node is not believed: its certificate is for another name; name it as its certificate does, or say that name with tls.server_name"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        detail = message.split("CERTIFICATE_VERIFY_FAILED", 1)[1].strip(" :").split(": ", 1)[0]
        return f"the node is not believed: {detail or 'its certificate'}: it has to be of a CA in tls.ca, and valid now"
    if "handshake failed" in message:
        return f"no handshake: {_innermost(message)}"
    return None


def _innermost(message: str) -> str:
    """ "Connection refused" and not what stands around it."""
    for mark in ("last error: UNKNOWN: ", "last error: "):
        if mark in message:
            message = message.split(mark, 1)[1]
    return message


class Faults:
    """The last fault of each endpoint of one call, and what they leave unsure."""

    def __init__(self, what: str, endpoints: Sequence[str], *, write: bool = False, request_id: bytes | None = None) -> None:
        self.what = what
        self.endpoints = endpoints
        self.write = write
        self.request_id = request_id
        self.last: dict[int, Fault] = {}
        self.unsure = False

    def add(self, endpoint: int, fault: Fault) -> None:
        if fault.message == NO_TIME and endpoint in self.last:
            return  # What it said before says more.
        self.unsure |= fault.rule.unsure
        self.last.pop(endpoint, None)
        self.last[endpoint] = fault

    def done_before(self, fault: Fault) -> bool:
        """For what makes something vanish: an earlier attempt may have done it, and now nothing is there."""
        return self.unsure and fault.rule.error is NotFound

    def error(self) -> Error:
        """A final answer speaks for itself; otherwise every endpoint has its say."""
        if not self.last:
            return Unavailable(f"cannot {self.what}: there was no time to ask: allow a longer timeout", endpoint=",".join(self.endpoints))
        at, fault = list(self.last.items())[-1]
        if fault.rule.error is not Unavailable:
            unsure = ": an earlier attempt may have taken effect" if self.unsure and self.write else ""
            place = self.endpoints[at]
            return fault.rule.error(f"cannot {self.what}: {fault.message}: {place}{unsure}", endpoint=place)
        told = ", ".join(f"{self.endpoints[at]} ({fault.message})" for at, fault in self.last.items())
        names = ",".join(self.endpoints[at] for at in self.last)
        if self.unsure and self.write:
            again = "repeat it with the request_id of this error" if self.request_id else "repeating it is safe"
            return UnknownOutcome(f"cannot {self.what}: {told}: it may have taken effect; {again}", endpoint=names, request_id=self.request_id)
        return Unavailable(f"cannot {self.what}: {told}: see that a node runs there and can reach the others", endpoint=names)
