"""Everything that a profile must supply, and nothing else; and what each engine cannot promise.

`Strength` is the table of docs/contracts.md: where an engine lacks one the conformance suite asserts the weaker
promise, and never skips.
"""

from typing import Final, Literal

import msgspec

from tocsin.bus import Bus
from tocsin.clients import Clients, Connections
from tocsin.clock import Clock
from tocsin.failpoints import Failpoints
from tocsin.message import MessageIds
from tocsin.metrics import Metrics
from tocsin.rates import Rates
from tocsin.tables import Messages, Numbers, Permissions, Tickets

Strength = Literal[
    "no_repeat",
    "frames_at_connect",
    "close_codes",
    "holds_sockets",
    "gap_frames",
    "pipelined_order",
    "history_at_once",
    "revoke_at_once",
    "time_follows_number",
    "ack_first",
    "quiet_after_unsubscribed",
    "rates",
    "dedupe_waits",
    "queue_age",
    "deletes_on_demand",
]

EVERY_STRENGTH: Final[frozenset[Strength]] = frozenset(Strength.__args__)  # type: ignore[attr-defined]


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    bus: Bus
    numbers: Numbers
    messages: Messages
    permissions: Permissions
    tickets: Tickets
    connections: Connections
    clients: Clients
    rates: Rates
    metrics: Metrics
    clock: Clock
    ids: MessageIds
    failpoints: Failpoints
    strengths: frozenset[Strength] = EVERY_STRENGTH
