"""Tickets in memory: they live 60 s, and a restart spends them all. Kept under their hash, so that none is to be had
from a copy of the memory; one presentation takes it out."""

import secrets
from hashlib import sha256
from itertools import islice
from typing import Final

from tocsin.errors import Refusal
from tocsin.identity import Identity

TICKET_MILLISECONDS: Final = 60_000
CAPACITY: Final = 100_000


class MemoryTickets:
    def __init__(self) -> None:
        self._offered: dict[bytes, tuple[Identity, int]] = {}

    async def offer(self, identity: Identity, now: int) -> str:
        self._forget(now)
        if len(self._offered) >= CAPACITY:
            raise Refusal("rate_limited", "Too many tickets are out; try again soon.", retry_after=5)
        ticket = secrets.token_urlsafe(32)
        self._offered[sha256(ticket.encode()).digest()] = identity, now + TICKET_MILLISECONDS
        return ticket

    async def redeem(self, ticket: str, now: int) -> Identity | None:
        found = self._offered.pop(sha256(ticket.encode()).digest(), None)
        return None if found is None or found[1] < now else found[0]

    def _forget(self, now: int) -> None:
        """They are offered in order of time, so the oldest stand first."""
        for digest, (_, until) in list(islice(self._offered.items(), 100)):
            if until >= now:
                return
            del self._offered[digest]
