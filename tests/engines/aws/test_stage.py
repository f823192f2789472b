"""The stage: what the template makes, in a second and under names of its own; its tables may stand elsewhere."""

import json
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import boto3
import pytest

from tests.conformance.aws import AwsHarness
from tests.dynamodb_local import SUITES, DynamodbLocal
from tests.ministack import Ministack, Stage
from tocsin.engines.aws.schema import TABLES
from tocsin.topology import QUEUES

pytestmark = pytest.mark.slow


def test_what_the_emulator_writes_is_in_a_folder_of_its_own_and_gone_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    emulator = Ministack()
    try:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        with closing(boto3.client("cognito-idp")) as cognito:
            pool = cognito.create_user_pool(PoolName="people")["UserPool"]["Id"]
        with urlopen(f"{emulator.url}/{pool}/.well-known/jwks.json") as answer:
            assert "keys" in json.load(answer)
        (folder,) = tmp_path.iterdir()
        assert [path.name for path in folder.glob("cognito*.pem")] == ["cognito-rsa-key.pem"]
    finally:
        emulator.stop()
    assert list(tmp_path.iterdir()) == []


def test_two_stages_have_nothing_in_common(make_stage: Callable[[], Stage]) -> None:
    began = time.monotonic()
    one, other = make_stage(), make_stage()
    assert time.monotonic() - began < 5
    for names in ("tables", "topics", "queues"):
        assert set(getattr(one, names)) == set(getattr(other, names))
        assert not set(getattr(one, names).values()) & set(getattr(other, names).values())


def test_a_table_is_as_the_schema_says(stage: Stage) -> None:
    for table in TABLES:
        found = stage.services.dynamodb.describe_table(TableName=stage.tables[table.name])["Table"]
        keys = [key["AttributeName"] for key in found["KeySchema"]]
        assert keys == [key.name for key in (table.partition, table.sort) if key is not None]
        assert [one["IndexName"] for one in found.get("GlobalSecondaryIndexes", [])] == [
            index.name for index in table.indexes
        ]


def test_each_queue_has_its_dead_letters_and_its_filter(stage: Stage) -> None:
    for queue in QUEUES:
        attributes = stage.services.sqs.get_queue_attributes(QueueUrl=stage.queues[queue.name], AttributeNames=["All"])[
            "Attributes"
        ]
        assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(
            queue.dead_letters + (".fifo" if queue.fifo else "")
        )
        subscriptions = [
            stage.services.sns.get_subscription_attributes(SubscriptionArn=one["SubscriptionArn"])["Attributes"]
            for arn in stage.topics.values()
            for one in stage.services.sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]
            if one["Endpoint"] == attributes["QueueArn"]
        ]
        assert len(subscriptions) == len(queue.topics)
        for subscription in subscriptions:
            assert subscription["RawMessageDelivery"] == "true"
            assert json.loads(subscription.get("FilterPolicy", "null")) == (
                None if queue.channel is None else {"targetChannel": [queue.channel]}
            )


async def test_on_dynamodb_local_are_the_tables_and_nothing_else(
    on_dynamodb_local: None, dynamodb_local: DynamodbLocal, ministack: Ministack, bare: AwsHarness
) -> None:
    used = [calls.client.meta.endpoint_url for calls in (bare.aws.dynamodb, bare.aws.sns, bare.aws.sqs)]
    assert used == [dynamodb_local.url, ministack.url, ministack.url]
    assert bare.stage.services.dynamodb.meta.endpoint_url == dynamodb_local.url


def test_each_suite_that_dynamodb_local_judges_is_there(pytestconfig: pytest.Config) -> None:
    assert not [suite for suite in SUITES if not (pytestconfig.rootpath / suite).exists()]


def test_dynamodb_local_listens_on_one_address_of_this_machine(dynamodb_local: DynamodbLocal) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", dynamodb_local.port))
