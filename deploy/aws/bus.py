"""The pipes, made as topology.py has them: two topics, three queues, and a dead-letter queue behind each way.

    topic -> subscription (filter, raw) -> queue -> Lambda (compute.py)
                 |                           |
                 its own dead letters        its dead letters

Rules:
- queues are encrypted by SQS itself. Never by KMS's alias/aws/sqs: SNS could not deliver, the publisher would have his
  202, and the message would be gone;
- visibility is six times the function's time: a batch must not come again while it is still being worked on;
- what counts tries is our consumer. The queue's own redrive, far above, catches only what never reached it: SQS counts
  the innocent of a batch and throttled receives, too.
"""

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from deploy.aws.functions import FUNCTIONS
from deploy.aws.settings import Settings
from tocsin.engines.aws.schema import queue_name
from tocsin.topology import QUEUES, TOPICS, Queue, Topic

#: SQS's longest.
KEPT: Final = Duration.days(14)
#: Receives, before SQS itself buries a message.
REDRIVE: Final = 10
#: How often a function's time fits into its queue's visibility.
VISIBILITY: Final = 6


class Bus(Construct):
    """`queues` and `dead_letters` by the queue's name, `undelivered` by (topic, queue)."""

    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Bus")
        self._settings = settings
        self.topics: Final = {topic.name: self._topic(topic) for topic in TOPICS}
        self.dead_letters: Final[dict[str, sqs.Queue]] = {}
        self.queues: Final = {queue.name: self._queue(queue) for queue in QUEUES}
        self.undelivered: Final = {
            (topic.name, queue.name): self._subscribe(topic, queue) for queue in QUEUES for topic in queue.topics
        }

    def _topic(self, topic: Topic) -> sns.Topic:
        return sns.Topic(
            self,
            topic.name.replace(".", "-"),
            topic_name=self._settings.named(topic.name),
            fifo=topic.fifo or None,
            content_based_deduplication=False if topic.fifo else None,
            fifo_throughput_scope=sns.FifoThroughputScope.MESSAGE_GROUP if topic.fifo else None,
            enforce_ssl=True,
        )

    def _queue(self, queue: Queue) -> sqs.Queue:
        dead = self._made(queue.dead_letters, fifo=queue.fifo, visibility=Duration.seconds(30))
        self.dead_letters[queue.name] = dead
        timeout = next(function.timeout for function in FUNCTIONS if queue in function.queues)
        return self._made(
            queue.name,
            fifo=queue.fifo,
            visibility=Duration.seconds(VISIBILITY * timeout),
            dead_letters=sqs.DeadLetterQueue(queue=dead, max_receive_count=REDRIVE),
        )

    def _made(
        self, name: str, *, fifo: bool, visibility: Duration, dead_letters: sqs.DeadLetterQueue | None = None
    ) -> sqs.Queue:
        return sqs.Queue(
            self,
            name,
            queue_name=self._settings.named(queue_name(name, fifo=fifo)),
            fifo=fifo or None,
            content_based_deduplication=False if fifo else None,
            deduplication_scope=sqs.DeduplicationScope.MESSAGE_GROUP if fifo else None,
            fifo_throughput_limit=sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID if fifo else None,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=KEPT,
            visibility_timeout=visibility,
            dead_letter_queue=dead_letters,
        )

    def _subscribe(self, topic: Topic, queue: Queue) -> sqs.Queue:
        """Its dead-letter queue, of the subscribed queue's type."""
        name = f"{topic.name.removesuffix('.fifo')}To{queue.name}DLQ"
        undelivered = self._made(name, fifo=queue.fifo, visibility=Duration.seconds(30))
        only = None
        if queue.channel is not None:
            only = {"targetChannel": sns.SubscriptionFilter.string_filter(allowlist=[queue.channel])}
        self.topics[topic.name].add_subscription(
            subscriptions.SqsSubscription(
                self.queues[queue.name],
                raw_message_delivery=True,
                filter_policy=only,
                dead_letter_queue=undelivered,
            )
        )
        return undelivered
