"""Whose each connection is, and how many of each there are.

    port, head_reader, http_connection -> Addresses

Rules:
- what a client says of its address counts for nothing; what a trusted proxy says of whom it heard from does;
- a proxy's own connections are nobody's;
- an IPv6 stranger is a network of 64 bits: whoever has one address has all of its.
"""

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

_STRANGER_BITS: Final = 64
"""Of an IPv6 address: what one client gets from its provider, at the least."""


class Addresses:
    """Whose a connection is, and how many of each there are."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks: Final = tuple(ipaddress.ip_network(network) for network in trusted)
        self._counts: Final[dict[str, int]] = {}
        self.trusts: Final = functools.lru_cache(4_096)(self._trusts)
        self._stranger_of: Final = functools.lru_cache(4_096)(self._find_stranger)

    def _trusts(self, address: str) -> bool:
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._networks)

    def peer(self, address: str, forwarded: Iterable[str]) -> str:
        """The right-most address of X-Forwarded-For that no trusted proxy has; `forwarded` are its lines in order.

        Each proxy adds whom it heard from. What stands left of the first stranger is only that stranger's word.
        """
        hops = [hop for line in forwarded for hop in line.split(",")]
        while hops and self.trusts(address):
            ip = _ip(hops.pop())
            if ip is None:
                break
            address = str(ip)
        return address

    def enter(self, address: str) -> None:
        stranger = self._stranger_of(address)
        if stranger is not None:
            self._counts[stranger] = self._counts.get(stranger, 0) + 1

    def leave(self, address: str) -> None:
        stranger = self._stranger_of(address)
        if stranger is not None:
            self._counts[stranger] -= 1
            if not self._counts[stranger]:
                del self._counts[stranger]

    def count(self, address: str) -> int:
        """How many connections the stranger has whose address it is."""
        stranger = self._stranger_of(address)
        return 0 if stranger is None else self._counts.get(stranger, 0)

    def _find_stranger(self, address: str) -> str | None:
        """As whom an address is counted; None is nobody: a proxy, or a unix socket's peer."""
        if not address or self.trusts(address):
            return None
        ip = _ip(address)
        if ip is None or ip.version == 4:
            return address
        return str(ipaddress.IPv6Network((int(ip), _STRANGER_BITS), strict=False))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
