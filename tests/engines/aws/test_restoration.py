"""What the emulator does not do to whoever restores: a new copy takes no change yet, and says of which second it is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from tests.manual_clock import ManualClock
from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.restoration import EMPTY, KEPT, Restoration
from tocsin.engines.aws.schema import TABLES
from tocsin.errors import Refusal


async def test_a_table_that_is_busy_is_asked_again_until_it_takes_the_change() -> None:
    client = boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    clock = ManualClock()
    calls = Calls(lambda: client, threads=1, clock=clock, jitter=lambda: 0.0, name="dynamodb")
    with Stubber(client) as stub:
        stub.add_response("describe_table", {"Table": {"TableStatus": "CREATING"}})
        for place, table in enumerate(TABLES):
            name = {"TableName": f"new-{table.name}"}
            stub.add_response("describe_table", {"Table": {"TableStatus": "ACTIVE"}}, name)
            stub.add_response(
                "describe_time_to_live", {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}, name
            )
            stub.add_response("update_time_to_live", {}, name | {"TimeToLiveSpecification": ANY})
            backups: dict[str, Any] = name | {"PointInTimeRecoverySpecification": ANY}
            if place == 0:
                busy = "ContinuousBackupsUnavailableException"
                stub.add_client_error("update_continuous_backups", busy, expected_params=backups)
            stub.add_response("update_continuous_backups", {}, backups)
            protected: dict[str, Any] = name | {"DeletionProtectionEnabled": True}
            if place == 0:
                stub.add_client_error("update_table", "ResourceInUseException", expected_params=protected)
            stub.add_response("update_table", {}, protected)
        await clock.run(Restoration(calls, "", "new-", clock).ready(), step=0.25)
        stub.assert_no_pending_responses()
    calls.close()
    client.close()


@pytest.mark.parametrize("seconds", [0, 1])
async def test_copies_of_another_second_are_not_taken_for_those_that_are_asked_for(seconds: int) -> None:
    client = boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    clock = ManualClock()
    calls = Calls(lambda: client, threads=1, clock=clock, jitter=lambda: 0.0, name="dynamodb")
    when = datetime(2026, 1, 31, 9, tzinfo=UTC)
    summary = {"RestoreDateTime": when + timedelta(seconds=seconds), "RestoreInProgress": False}
    with Stubber(client) as stub:
        for table in KEPT if seconds == 0 else KEPT[:1]:
            stub.add_client_error("restore_table_to_point_in_time", "TableAlreadyExistsException")
            stub.add_response(
                "describe_table", {"Table": {"RestoreSummary": summary}}, {"TableName": f"new-{table.name}"}
            )
        copying = Restoration(calls, "", "new-", clock).copy(round(when.timestamp() * 1000))
        if seconds == 0:
            for _ in EMPTY:
                stub.add_client_error("create_table", "ResourceInUseException")
            await clock.run(copying)
        else:
            with pytest.raises(Refusal, match="as of 2026-01-31T09:00:01"):
                await clock.run(copying)
        stub.assert_no_pending_responses()
    calls.close()
    client.close()
