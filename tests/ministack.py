"""The emulator of AWS, and a stage of ours on it: tables, topics, queues, as the template makes them.

    fixture `ministack` (one process for all tests) -> Stage (names of its own for each test) -> AwsSettings

Rules:
- a missing emulator fails the test, never skips it: `make build/ministack/bin/ministack` puts it there;
- it listens on 127.0.0.1 alone, on a port that was free;
- what it writes (a copy of the code for each process of a function, keys of user pools) is in a folder of its own, and
  gone when it stops;
- a function may do what its role allows, and no more (AUTH); the test's own key is the account's, which may everything;
- what is deployed stands in deploy/aws; a stage has what the engine needs, from the same tables (schema, topology).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import boto3
import pytest
from botocore.config import Config

from tests.guarantees.server import HOST, free_port
from tocsin.engines.aws.schema import TABLES, TTL, Key, Table, queue_name
from tocsin.engines.aws.settings import AwsSettings
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, TOPICS, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, Queue

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import GlobalSecondaryIndexTypeDef, KeySchemaElementTypeDef
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

#: Where the Makefile puts it, beside the environment of the tests (a copy of the tree has none: make mutants).
PROGRAM: Final = Path(sys.prefix).parent / "build" / "ministack" / "bin" / "ministack"
REGION: Final = "us-east-1"
THREADS: Final = 16
#: Tells boto3 where tables are, if not where all the rest is.
TABLES_URL: Final = "AWS_ENDPOINT_URL_DYNAMODB"
#: Six times the processor's 60 s, and the storage function's 30 s.
VISIBILITY: Final = {
    WEBSOCKET_FIFO_QUEUE.name: 360,
    WEBSOCKET_STANDARD_QUEUE.name: 360,
    MESSAGE_STORAGE_QUEUE.name: 180,
}
#: What never reached the consumer so often is moved by the queue itself.
MAX_RECEIVES: Final = 10
#: Seconds until what was killed is gone; so many pass only where nobody reaps orphans (a container without an init).
PATIENCE: Final = 5.0


class Ministack:
    """The process. What it printed last is in `said`."""

    def __init__(self) -> None:
        if not PROGRAM.exists():
            pytest.fail("the emulator of AWS is missing: make build/ministack/bin/ministack", pytrace=False)
        self.port: Final = free_port()
        self._folder: Final = tempfile.TemporaryDirectory(prefix="ministack-")
        self.said: deque[str] = deque(maxlen=200)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TOCSIN_"))
        } | {
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(self.port),
            "LAMBDA_EXECUTOR": "local",
            "PYTHONUNBUFFERED": "1",
            "AUTH": "true",
            "TMPDIR": self._folder.name,
            "STATE_DIR": self._folder.name,
        }
        # Its functions' processes are no children of ours, but of its group.
        self._process = subprocess.Popen(
            [PROGRAM], env=environment, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        try:
            self._await_ready(self._process.stdout)
        except BaseException:
            self._end()
            raise
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="ministack", daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """What makes boto3 speak to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """Nothing of it is left: no process, no file."""
        self._end()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _end(self) -> None:
        end = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            while time.monotonic() < end:
                os.killpg(self._process.pid, 0)
                time.sleep(0.01)
        self._folder.cleanup()

    def _await_ready(self, output: IO[str]) -> None:
        for line in output:
            self.said.append(line)
            if "Running on http" in line:
                return
        pytest.fail(f"ministack ended with {self._process.wait()}: {''.join(self.said)}", pytrace=False)

    def _read(self, output: IO[str]) -> None:
        self.said.extend(output)


class Services:
    """Clients of a test's own, apart from the engine's. boto3 knows the emulator by its environment."""

    def __init__(self) -> None:
        config = Config(max_pool_connections=THREADS, retries={"total_max_attempts": 1, "mode": "standard"})
        self._dynamodb: defaultdict[str | None, DynamoDBClient] = defaultdict(
            lambda: boto3.client("dynamodb", config=config)
        )
        self.sns: SNSClient = boto3.client("sns", config=config)
        self.sqs: SQSClient = boto3.client("sqs", config=config)
        self.threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="stage")

    @property
    def dynamodb(self) -> "DynamoDBClient":
        """A test may have its tables elsewhere."""
        return self._dynamodb[os.environ.get(TABLES_URL)]

    def at_once(self, calls: Iterable[Callable[[], Any]]) -> list[Any]:
        return list(self.threads.map(lambda call: call(), calls))

    def close(self) -> None:
        self.threads.shutdown()
        for client in (*self._dynamodb.values(), self.sns, self.sqs):
            client.close()


class Stage:
    """Everything under one prefix; about thirty calls, made at once."""

    def __init__(self, services: Services, prefix: str) -> None:
        self.services = services
        self.prefix = prefix
        self.tables = {table.name: f"{prefix}-{table.name}" for table in TABLES}
        self.topics: dict[str, str] = {}
        self.queues: dict[str, str] = {}

    def create(self) -> Self:
        """First what stands alone, then the subscriptions and policies that join it."""
        dynamodb = self.services.dynamodb  # boto3 makes no clients in several threads at once
        queues = [(queue, name) for queue in QUEUES for name in (queue.name, queue.dead_letters)]
        self.services.at_once(
            [
                *[lambda table=table: self._create_table(dynamodb, table) for table in TABLES],
                *[lambda topic=topic: self._create_topic(topic.name, fifo=topic.fifo) for topic in TOPICS],
                *[lambda queue=queue, name=name: self._create_queue(queue, name) for queue, name in queues],
            ]
        )
        self.services.at_once(
            [
                *[lambda queue=queue: self._redrive(queue) for queue in QUEUES],
                *[lambda queue=queue: self._admit(queue) for queue in QUEUES],
                *[
                    lambda queue=queue, topic=topic: self._subscribe(queue, topic.name)
                    for queue in QUEUES
                    for topic in queue.topics
                ],
            ]
        )
        return self

    def settings(self, **changes: Any) -> AwsSettings:
        values = {table.variable.lower(): self.tables[table.name] for table in TABLES} | {
            "fifo_topic_arn": self.topics[TOPICS[0].name],
            "standard_topic_arn": self.topics[TOPICS[1].name],
        }
        for name, queue in (
            ("fifo", WEBSOCKET_FIFO_QUEUE),
            ("standard", WEBSOCKET_STANDARD_QUEUE),
            ("storage", MESSAGE_STORAGE_QUEUE),
        ):
            values[f"{name}_queue_url"] = self.queues[queue.name]
            values[f"{name}_dlq_url"] = self.queues[queue.dead_letters]
        return AwsSettings(**values | changes)

    def _create_table(self, dynamodb: "DynamoDBClient", table: Table) -> None:
        indexes: list[GlobalSecondaryIndexTypeDef] = [
            {
                "IndexName": index.name,
                "KeySchema": _schema(index.partition, index.sort),
                "Projection": {"ProjectionType": "ALL"},
            }
            for index in table.indexes
        ]
        optional: dict[str, Any] = {"GlobalSecondaryIndexes": indexes} if indexes else {}
        name = self.tables[table.name]
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=_schema(table.partition, table.sort),
            AttributeDefinitions=[{"AttributeName": key.name, "AttributeType": key.type} for key in table.keys],
            **optional,
        )
        dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL})

    def _create_topic(self, name: str, *, fifo: bool) -> None:
        attributes = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"} if fifo else {}
        made = self.services.sns.create_topic(Name=f"{self.prefix}-{name}", Attributes=attributes)
        self.topics[name] = made["TopicArn"]

    def _create_queue(self, queue: Queue, name: str) -> None:
        attributes: dict[QueueAttributeNameType, str] = {"VisibilityTimeout": str(VISIBILITY[queue.name])}
        if queue.fifo:
            attributes |= {
                "FifoQueue": "true",
                "DeduplicationScope": "messageGroup",
                "FifoThroughputLimit": "perMessageGroupId",
            }
        made = self.services.sqs.create_queue(
            QueueName=queue_name(f"{self.prefix}-{name}", fifo=queue.fifo), Attributes=attributes
        )
        self.queues[name] = made["QueueUrl"]

    def _redrive(self, queue: Queue) -> None:
        target = {"deadLetterTargetArn": self.arn(queue.dead_letters), "maxReceiveCount": MAX_RECEIVES}
        self.services.sqs.set_queue_attributes(
            QueueUrl=self.queues[queue.name], Attributes={"RedrivePolicy": json.dumps(target)}
        )

    def _subscribe(self, queue: Queue, topic: str) -> None:
        attributes = {"RawMessageDelivery": "true"}
        if queue.channel is not None:
            attributes["FilterPolicy"] = json.dumps({"targetChannel": [queue.channel]})
        self.services.sns.subscribe(
            TopicArn=self.topics[topic], Protocol="sqs", Endpoint=self.arn(queue.name), Attributes=attributes
        )

    def _admit(self, queue: Queue) -> None:
        """What its topics bring."""
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": self.arn(queue.name),
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        self.services.sqs.set_queue_attributes(QueueUrl=self.queues[queue.name], Attributes={"Policy": policy})

    def arn(self, name: str) -> str:
        found = self.services.sqs.get_queue_attributes(QueueUrl=self.queues[name], AttributeNames=["QueueArn"])
        return found["Attributes"]["QueueArn"]


def _schema(partition: Key, sort: Key | None) -> "list[KeySchemaElementTypeDef]":
    schema: list[KeySchemaElementTypeDef] = [{"AttributeName": partition.name, "KeyType": "HASH"}]
    if sort is not None:
        schema.append({"AttributeName": sort.name, "KeyType": "RANGE"})
    return schema
