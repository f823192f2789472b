"""When tokens end: each connection stands under the second in which something is due, and nothing is due before it."""

from tocsin.clients import EXPIRY_WARNING_MILLISECONDS
from tocsin.engines.embedded.room import HubConnection


class Expiries:
    def __init__(self) -> None:
        self._by_second: dict[int, set[HubConnection]] = {}

    def enter(self, entry: HubConnection) -> None:
        """Waits for the token that the connection has now."""
        self._wait(entry, entry.identity.expires_at - EXPIRY_WARNING_MILLISECONDS)

    def leave(self, entry: HubConnection) -> None:
        bucket = self._by_second.get(entry.expires_in)
        if bucket is not None:
            bucket.discard(entry)
            if not bucket:
                del self._by_second[entry.expires_in]

    def due(self, now: int) -> list[HubConnection]:
        """Whose token is about to end, once; whose token has ended."""
        found = []
        for second in [second for second in self._by_second if second * 1000 <= now]:
            for entry in list(self._by_second[second]):
                ends = entry.identity.expires_at
                if now >= ends:
                    self.leave(entry)
                    found.append(entry)
                    continue
                self._wait(entry, ends)
                if entry.warned_for != ends:
                    entry.warned_for = ends
                    found.append(entry)
        return found

    def _wait(self, entry: HubConnection, until: int) -> None:
        """`until` in milliseconds; never early."""
        self.leave(entry)
        entry.expires_in = -(-until // 1000)
        self._by_second.setdefault(entry.expires_in, set()).add(entry)
