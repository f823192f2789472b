"""THE PIPES, as data: two topics, three queues, their filters, batch sizes, attempts and dead-letter queues.

The seed's tables ("SNS Topics & SQS Queues") with the holes closed (decision record 0010): MessageStorageQueue has a
dead-letter queue too. Engines read this; nothing else says what goes where.
"""

from typing import Final

import msgspec

from tocsin.message import WEBSOCKET


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    fifo: bool


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """`channel` is the subscription's filter on targetChannel (None: all messages).

    `batch_size` is the seed's, for engines whose bus hands over messages one batch at a time through a network; the
    embedded log hands over what one commit brought. After `attempts` failures a message is a dead letter.
    """

    name: str
    topics: tuple[Topic, ...]
    fifo: bool
    channel: str | None
    batch_size: int
    attempts: int
    dead_letters: str

    def takes(self, topic: Topic, target_channel: str) -> bool:
        return topic in self.topics and self.channel in (None, target_channel)


FIFO_TOPIC: Final = Topic(name="Notifications.fifo", fifo=True)
STANDARD_TOPIC: Final = Topic(name="Notification", fifo=False)
TOPICS: Final = (FIFO_TOPIC, STANDARD_TOPIC)

WEBSOCKET_FIFO_QUEUE: Final = Queue(
    name="WebSocketFifoQueue",
    topics=(FIFO_TOPIC,),
    fifo=True,
    channel=WEBSOCKET,
    batch_size=1,
    attempts=3,
    dead_letters="WebSocketFifoDLQ",
)
WEBSOCKET_STANDARD_QUEUE: Final = Queue(
    name="WebSocketStandardQueue",
    topics=(STANDARD_TOPIC,),
    fifo=False,
    channel=WEBSOCKET,
    batch_size=1,
    attempts=3,
    dead_letters="WebSocketStandardDLQ",
)
MESSAGE_STORAGE_QUEUE: Final = Queue(
    name="MessageStorageQueue",
    topics=TOPICS,
    fifo=False,
    channel=None,
    batch_size=10,
    attempts=3,
    dead_letters="MessageStorageDLQ",
)
QUEUES: Final = (WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, MESSAGE_STORAGE_QUEUE)


def topic_of(*, ordered: bool) -> Topic:
    return FIFO_TOPIC if ordered else STANDARD_TOPIC
