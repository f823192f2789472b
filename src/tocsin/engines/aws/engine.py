"""The AWS engine: everything behind the protocols, on DynamoDB, SNS, SQS and API Gateway; and what it cannot promise.

Each function of profiles/aws.py builds the whole of it: a client of AWS is made when it is first used, so a function
pays for what it needs.
"""

import secrets
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import boto3
from botocore.config import Config

from tocsin.clock import Clock, SystemClock
from tocsin.engine import Engine, Strength
from tocsin.engines.aws.apigateway_clients import ApiGatewayClients
from tocsin.engines.aws.apigateway_posts import POST_SECONDS, ApiGatewayPosts
from tocsin.engines.aws.bus_format import is_numbered, with_number
from tocsin.engines.aws.calls import Calls, config
from tocsin.engines.aws.connection_rows import ConnectionRows
from tocsin.engines.aws.dynamodb_claims import DynamodbClaims
from tocsin.engines.aws.dynamodb_connections import DynamodbConnections
from tocsin.engines.aws.dynamodb_messages import DynamodbMessages
from tocsin.engines.aws.dynamodb_numbers import DynamodbNumbers
from tocsin.engines.aws.dynamodb_permissions import DynamodbPermissions
from tocsin.engines.aws.dynamodb_tickets import DynamodbTickets
from tocsin.engines.aws.dynamodb_tries import DynamodbTries
from tocsin.engines.aws.emf_metrics import EmfMetrics
from tocsin.engines.aws.gaps import Gaps
from tocsin.engines.aws.message_rows import MessageRows
from tocsin.engines.aws.minute_rows import MinuteRows, minute_of
from tocsin.engines.aws.settings import AwsSettings
from tocsin.engines.aws.sns_bus import SnsBus
from tocsin.engines.aws.sqs_dead_letters import SqsDeadLetters
from tocsin.engines.aws.sqs_queue import SqsQueue
from tocsin.engines.aws.subscription_rows import SubscriptionRows
from tocsin.failpoints import Failpoints
from tocsin.message import Message, MessageIds
from tocsin.topology import (
    FIFO_TOPIC,
    MESSAGE_STORAGE_QUEUE,
    STANDARD_TOPIC,
    WEBSOCKET_FIFO_QUEUE,
    WEBSOCKET_STANDARD_QUEUE,
    Queue,
)

#: None of them (docs/contracts.md): each needs a memory that all functions share, or a connection that is ours.
STRENGTHS: Final[frozenset[Strength]] = frozenset()

#: Calls in flight at once, for each service; and seconds for an answer at most.
THREADS: Final = 16
ANSWER_SECONDS: Final = 5.0

C = TypeVar("C")


class UnlimitedRates:
    """No bucket for (user, chat): it would cost a write for each publish. The stage throttles."""

    def take(self, user_id: str, chat_id: str) -> float:
        return 0.0


class AwsEngine:
    def __init__(
        self,
        settings: AwsSettings,
        *,
        clock: Clock | None = None,
        failpoints: Failpoints | None = None,
        random: Random | None = None,
        post_seconds: float = POST_SECONDS,
    ) -> None:
        """`post_seconds`: after so many API Gateway has not answered."""
        self._clock = clock = clock or SystemClock()
        self._random = random or Random(secrets.randbits(256))  # noqa: S311 - ids and jitter are no secrets
        failpoints = failpoints or Failpoints()
        self.dynamodb = self._calls("dynamodb", lambda config: boto3.client("dynamodb", config=config))
        self.sns = self._calls("sns", lambda config: boto3.client("sns", config=config))
        self.sqs = self._calls("sqs", lambda config: boto3.client("sqs", config=config))
        self.secrets = self._calls("secrets", lambda config: boto3.client("secretsmanager", config=config))
        self.api = self._calls(
            "api",
            lambda config: boto3.client(
                "apigatewaymanagementapi", endpoint_url=settings.ws_api_endpoint, config=config
            ),
            seconds=post_seconds,
        )
        self._rows = MessageRows(self.dynamodb, settings.message_storage_table, settings.retention, failpoints)
        numbers = DynamodbNumbers(
            dynamodb=self.dynamodb,
            table=settings.sequence_table,
            rows=self._rows,
            clock=clock,
            failpoints=failpoints,
            new_epoch=self._new_id,
        )
        messages = DynamodbMessages(
            dynamodb=self.dynamodb, rows=self._rows, numbers=numbers, clock=clock, failpoints=failpoints
        )
        metrics = self.metrics = EmfMetrics(settings.metrics_namespace, clock)
        tries = DynamodbTries(self.dynamodb, settings.claim_table)
        self.bus = SnsBus(
            sns=self.sns,
            topics={FIFO_TOPIC.name: settings.fifo_topic_arn, STANDARD_TOPIC.name: settings.standard_topic_arn},
            claims=DynamodbClaims(self.dynamodb, settings.claim_table),
            queues=[
                SqsQueue(
                    queue,
                    sqs=self.sqs,
                    url=url,
                    tries=tries,
                    letters=SqsDeadLetters(
                        queue,
                        sqs=self.sqs,
                        queue_url=url,
                        letters_url=letters_url,
                        rows=self._rows,
                        clock=clock,
                        new_id=self._new_id,
                    ),
                    clock=clock,
                    metrics=metrics,
                    failpoints=failpoints,
                    died=self._died,
                )
                for queue, url, letters_url in (
                    (WEBSOCKET_FIFO_QUEUE, settings.fifo_queue_url, settings.fifo_dlq_url),
                    (WEBSOCKET_STANDARD_QUEUE, settings.standard_queue_url, settings.standard_dlq_url),
                    (MESSAGE_STORAGE_QUEUE, settings.storage_queue_url, settings.storage_dlq_url),
                )
            ],
            clock=clock,
            metrics=metrics,
            failpoints=failpoints,
        )
        self.tickets: Final = DynamodbTickets(self.dynamodb, settings.claim_table)
        posts = ApiGatewayPosts(self.api, clock=clock, slots=THREADS)
        subscriptions = SubscriptionRows(self.dynamodb, settings.subscription_table)
        self._minutes = MinuteRows(self.dynamodb, settings.subscription_table)
        gaps = Gaps(posts=posts, rows=subscriptions, minutes=self._minutes, clock=clock, metrics=metrics)
        connections = DynamodbConnections(
            dynamodb=self.dynamodb,
            permissions_table=settings.permissions_table,
            connections=ConnectionRows(self.dynamodb, settings.connection_table, clock),
            rows=subscriptions,
            minutes=self._minutes,
            gaps=gaps,
            clock=clock,
            metrics=metrics,
            new_gen=self._new_id,
            chats_per_connection=settings.chats_per_connection,
        )
        self._clients: Final = ApiGatewayClients(
            posts=posts,
            gaps=gaps,
            rows=subscriptions,
            connections=connections,
            clock=clock,
            metrics=metrics,
            failpoints=failpoints,
        )
        self.protocols: Final = Engine(
            bus=self.bus,
            numbers=numbers,
            messages=messages,
            permissions=DynamodbPermissions(self.dynamodb, settings.permissions_table),
            tickets=self.tickets,
            connections=connections,
            clients=self._clients,
            rates=UnlimitedRates(),
            metrics=metrics,
            clock=clock,
            ids=MessageIds(self._random.getrandbits),
            failpoints=failpoints,
            strengths=STRENGTHS,
        )

    def close(self) -> None:
        """For tests: a function ends with its process."""
        for calls in (self.dynamodb, self.sns, self.sqs, self.secrets, self.api):
            calls.close()

    async def each_minute(self, expire: Callable[[], Awaitable[None]]) -> None:
        """The minute's job: the component's `expire`, and the gaps, even if that fails. If one does, the next looks
        back to here."""
        minute = minute_of(self._clock.now())
        try:
            await expire()
        finally:
            await self._clients.tell_missed()
        await self._minutes.whole(minute)

    async def _died(self, queue: Queue, message: Message) -> None:
        """Who listens is told of a number that will not come. Where none was drawn nobody misses one."""
        if queue is MESSAGE_STORAGE_QUEUE:
            return
        number = (await self._rows.numbers([message])).get(message.message_id)
        if number is not None:
            await self.protocols.clients.skipped([with_number(message, number, number)])
        elif not is_numbered(message):
            await self.protocols.clients.skipped([message])

    def _calls(self, name: str, make: Callable[[Config], C], *, seconds: float = ANSWER_SECONDS) -> Calls[C]:
        return Calls(
            lambda: make(config(THREADS, seconds=seconds)),
            threads=THREADS,
            clock=self._clock,
            jitter=self._random.random,
            name=name,
        )

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(96):024x}"
