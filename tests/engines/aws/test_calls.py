"""Calls: what may pass is tried again until the deadline, and whether anything was done is told apart."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.stub import Stubber

from tests.conformance.management_api import ManagementApi
from tests.manual_clock import ManualClock
from tocsin.engines.aws.calls import (
    CONDITION_FAILED,
    LONGEST_PAUSE,
    PATIENCE,
    Calls,
    Unreachable,
    code_of,
    config,
    until,
)
from tocsin.engines.aws.engine import THREADS

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY: Any = {"TableName": "t", "Key": {"claim": {"S": "x"}}}


class Stand:
    """A client whose answers are given beforehand. `pauses` is what passed before each repetition, in seconds."""

    def __init__(self, jitter: float = 1.0) -> None:
        self.clock = ManualClock()
        self.client: DynamoDBClient = boto3.client(
            "dynamodb",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=config(4, seconds=1.0),
        )
        self.stubber = Stubber(self.client)
        self.stubber.activate()
        self.calls = Calls(lambda: self.client, threads=4, clock=self.clock, jitter=lambda: jitter, name="stand")

    def fails(self, code: str, reasons: list[str] | None = None) -> None:
        fields: dict[str, Any] = {}
        if reasons is not None:
            fields["CancellationReasons"] = [{"Code": reason} for reason in reasons]
        self.stubber.add_client_error("get_item", code, modeled_fields=fields)

    def answers(self) -> None:
        self.stubber.add_response("get_item", {"Item": {"claim": {"S": "x"}}})

    async def ask(self) -> str:
        found = await self.clock.run(self.calls(lambda client: client.get_item(**KEY)))
        return found["Item"]["claim"]["S"]


@pytest.fixture
def stand() -> Iterator[Stand]:
    made = Stand()
    yield made
    made.calls.close()
    made.client.close()


@pytest.mark.parametrize(
    "code",
    [
        "ThrottlingException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "InternalServerError",
        "TransactionConflictException",
    ],
)
async def test_what_may_pass_is_tried_again(stand: Stand, code: str) -> None:
    for _ in range(3):
        stand.fails(code)
    stand.answers()
    assert await stand.ask() == "x"
    stand.stubber.assert_no_pending_responses()


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_a_transaction_that_only_met_another_is_tried_again(stand: Stand, reason: str) -> None:
    stand.fails("TransactionCanceledException", ["None", reason])
    stand.answers()
    assert await stand.ask() == "x"


@pytest.mark.parametrize("reasons", [["ConditionalCheckFailed", "TransactionConflict"], ["ValidationError"], ["None"]])
async def test_a_transaction_whose_condition_failed_is_its_callers(stand: Stand, reasons: list[str]) -> None:
    stand.fails("TransactionCanceledException", reasons)
    with pytest.raises(ClientError):
        await stand.ask()


@pytest.mark.parametrize("code", [CONDITION_FAILED, "ValidationException", "AccessDeniedException"])
async def test_what_will_not_pass_comes_through_at_once(stand: Stand, code: str) -> None:
    stand.fails(code)
    before = stand.clock.monotonic()
    with pytest.raises(ClientError) as failed:
        await stand.ask()
    assert code_of(failed.value) == code
    assert stand.clock.monotonic() - before < 0.1


async def test_pauses_grow_and_are_drawn(stand: Stand) -> None:
    calm, hasty = stand, Stand(jitter=0.0)
    for one in (calm, hasty):
        for _ in range(6):
            one.fails("ThrottlingException")
        one.answers()
        began = one.clock.monotonic()
        await one.ask()
        passed = one.clock.monotonic() - began
        if one is calm:
            assert passed == pytest.approx(0.025 * (2**6 - 1), abs=0.3)
        else:
            assert passed < 0.1
    hasty.calls.close()
    hasty.client.close()


@pytest.mark.parametrize(("code", "definite"), [("ThrottlingException", True), ("InternalServerError", False)])
async def test_at_the_deadline_one_is_told_to_come_again_and_whether_anything_was_done(
    stand: Stand, code: str, definite: bool
) -> None:
    for _ in range(100):
        stand.fails(code)
    began = stand.clock.monotonic()
    with until(began + 3.0), pytest.raises(Unreachable) as refused:
        await stand.ask()
    assert 3.0 - LONGEST_PAUSE <= stand.clock.monotonic() - began <= 3.0
    assert (refused.value.code, refused.value.definite) == ("unavailable", definite)
    assert refused.value.retry_after is not None


async def test_one_attempt_whose_end_is_unknown_makes_it_all_unknown(stand: Stand) -> None:
    stand.fails("InternalServerError")
    for _ in range(100):
        stand.fails("ThrottlingException")
    with until(stand.clock.monotonic() + 1.0), pytest.raises(Unreachable) as refused:
        await stand.ask()
    assert not refused.value.definite


async def test_without_a_deadline_it_is_patient_for_a_while(stand: Stand) -> None:
    for _ in range(200):
        stand.fails("ThrottlingException")
    began = stand.clock.monotonic()
    with pytest.raises(Unreachable):
        await stand.ask()
    assert PATIENCE - LONGEST_PAUSE <= stand.clock.monotonic() - began <= PATIENCE


async def test_after_the_deadline_nothing_is_tried_twice(stand: Stand) -> None:
    stand.fails("ThrottlingException")
    with until(stand.clock.monotonic() - 1.0), pytest.raises(Unreachable):
        await stand.ask()
    stand.stubber.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("error", "definite"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ConnectTimeoutError(endpoint_url="http://x"), True),
        (ReadTimeoutError(endpoint_url="http://x"), False),
        (ConnectionClosedError(endpoint_url="http://x"), False),
    ],
)
async def test_what_was_never_sent_is_definite_and_what_was_cut_is_not(
    stand: Stand, error: Exception, definite: bool
) -> None:
    def ask(client: "DynamoDBClient") -> None:
        raise error

    with until(stand.clock.monotonic() + 1.0), pytest.raises(Unreachable) as refused:
        await stand.clock.run(stand.calls(ask))
    assert refused.value.definite is definite


async def test_what_is_in_flight_at_once_has_connections_of_its_own_and_they_are_kept() -> None:
    api = ManagementApi()
    endpoint = await api.start()
    client = boto3.client(
        "apigatewaymanagementapi",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config(THREADS, seconds=30.0),
    )
    names = [f"c{number}" for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(3):
            for name in names:
                api.refuse(name, 200)
                api.stall(name)
            posts = [partial(client.post_to_connection, ConnectionId=name, Data=b"") for name in names]
            answers = [asyncio.get_running_loop().run_in_executor(threads, post) for post in posts]
            await api.until_in_flight(THREADS)
            for name in names:
                api.resume(name)
            await asyncio.gather(*answers)
    assert api.opened == THREADS
    client.close()
    await api.stop()
