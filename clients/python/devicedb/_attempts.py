"""When and where to try again: a pure schedule over the endpoints, with a deadline that progress moves.

- Every endpoint is tried once before any is tried again, and gets its share of the time that is left, so that one that hangs cannot eat it all.
- From the second round on attempts wait, doubling, with jitter, and at least as long as a server has asked for in the round before.
- When no endpoint could ever be connected to, it gives up after ROUNDS_REFUSED rounds: nobody wants to wait ten seconds for "connection refused". A
  patient schedule goes on until its deadline.
"""

from __future__ import annotations

import dataclasses
import random

ROUNDS_REFUSED = 3
SLOWER_MAX = 5
DELAY_MIN = 0.05
DELAY_MAX = 1.0


@dataclasses.dataclass(frozen=True)
class Attempt:
    """At which endpoint, after which pause, and within which time from its begin; seconds."""

    endpoint: int
    after: float
    within: float


class Attempts:
    """The schedule of one call. Begins at the endpoint `first`, and ends `patience` seconds after `now` or after the last progress."""

    def __init__(self, endpoints: int, first: int, now: float, patience: float, *, patient: bool = False, chance: random.Random | None = None) -> None:
        self.endpoints = endpoints
        self.first = first
        self.tried = 0
        self.patience = patience
        self.deadline = now + patience
        self.patient = patient
        self.chance = chance or random.Random()
        self.was_connected = False
        self.slowed = 0
        # What servers have asked for since the last round began.
        self.rest = 0.0

    def next(self, now: float) -> Attempt | None:
        """None when it is time to give up."""
        turn = self.tried // self.endpoints
        hopeless = not self.was_connected and not self.patient and turn >= ROUNDS_REFUSED
        if hopeless or self.slowed >= SLOWER_MAX:
            return None
        after = self._delay(turn)
        if self.tried % self.endpoints == 0:
            after, self.rest = max(after, self.rest), 0.0
        left = self.deadline - (now + after)
        if left <= 0:
            return None
        untried = self.endpoints - self.tried % self.endpoints
        attempt = Attempt((self.first + self.tried) % self.endpoints, after, left / untried)
        self.tried += 1
        return attempt

    def connected(self) -> None:
        self.was_connected = True

    def slower(self, rest: float) -> None:
        """The server asked to slow down, and to come again after so many seconds."""
        self.slowed += 1
        self.rest = max(self.rest, rest)

    def progress(self, now: float) -> float:
        """Something arrived: the deadline moves. Returns how long the endpoint has for the next thing."""
        self.first = (self.first + self.tried) % self.endpoints
        self.tried = 0
        self.slowed = 0
        self.rest = 0.0
        self.deadline = now + self.patience
        return self.patience / self.endpoints

    def _delay(self, turn: int) -> float:
        if turn == 0:
            return 0.0
        most = min(DELAY_MIN * 2.0 ** min(turn - 1, 16), DELAY_MAX)
        return most / 2 + self.chance.random() * most / 2
