"""Where the template departs from the seed: one literal table, the same as in docs/aws-stack.md."""

from typing import Final

import msgspec


class Departure(msgspec.Struct, frozen=True):
    """`what` is `thing: attribute` of the seed's tables; `*` stands for any thing. `-`: it is not there."""

    what: str
    seed: str
    here: str
    why: str


DEPARTURES: Final = (
    Departure("*: runtime", "Node.js 22", "Python 3.13", "the components are Python, and the same in every profile"),
    Departure(
        "a2pHttpPublisher: concurrency",
        "Reserved: 1",
        "Default",
        "order comes from the message group; a second caller would get a 500. `--seed-exact` reserves it",
    ),
    Departure(
        "message-storage: concurrency",
        "Reserved: 5",
        "Default",
        "a new account has too little to reserve; the queue's mapping starts 5 at most. `--seed-exact` reserves it",
    ),
    Departure(
        "WebSocketFifoQueue: name",
        "WebSocketFifoQueue",
        "WebSocketFifoQueue.fifo",
        "a FIFO queue's name ends so on AWS",
    ),
    Departure("WebSocketFifoQueue: DLQ", "WebSocketFifoDLQ", "WebSocketFifoDLQ.fifo", "the same"),
    Departure("MessageStorageQueue: DLQ", "-", "MessageStorageDLQ", "what cannot be stored must not be lost"),
    Departure("SubscriptionTable: key", "-", "chatId, connectionId", "an index lags; this is read consistently"),
    Departure("SubscriptionTable: index", "-", "none", "the same"),
    Departure("ClaimTable: key", "-", "claim", "the seed has no place for ids seen, tickets and tries"),
    Departure("ClaimTable: index", "-", "none", "the same"),
)
