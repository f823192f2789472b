"""Tickets on DynamoDB: a row of ClaimTable under the ticket's hash, spent by a conditional update.

    chat_permission -> offer        websocket_authorizer -> redeem        $connect -> limit_of

Rules:
- the ticket itself stands nowhere: who reads the table has none;
- the first presentation spends it, even if it comes too late. Who spends it writes down that it was he, so that one
  whose answer was lost finds himself there;
- the row outlives the ticket for a while: the chats that it allows do not fit into an authorizer's answer, and
  `$connect` reads them here.
"""

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.rows import get_one, number, text
from tocsin.identity import Identity

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

TICKET_MILLISECONDS: Final = 60_000
#: DynamoDB may delete the row so many seconds after the ticket's end.
_TTL_SECONDS: Final = 3_600

_identity: Final = msgspec.json.Decoder(Identity)


class DynamodbTickets:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def offer(self, identity: Identity, now: int) -> str:
        ticket, ends = secrets.token_urlsafe(32), now + TICKET_MILLISECONDS
        await self._dynamodb(
            lambda client: client.put_item(
                TableName=self._table,
                Item={
                    **_key(ticket),
                    "identity": text(msgspec.json.encode(identity).decode()),
                    "expiresAt": number(ends),
                    "ttl": number(ends // 1000 + _TTL_SECONDS),
                },
            )
        )
        return ticket

    async def redeem(self, ticket: str, now: int) -> Identity | None:
        spender = secrets.token_urlsafe(16)
        try:
            found = await self._dynamodb(
                lambda client: client.update_item(
                    TableName=self._table,
                    Key=_key(ticket),
                    UpdateExpression="SET spentBy = :me",
                    ConditionExpression="attribute_exists(claim) AND (attribute_not_exists(spentBy) OR spentBy = :me)",
                    ExpressionAttributeValues={":me": text(spender)},
                    ReturnValues="ALL_NEW",
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            return None
        row = found["Attributes"]
        return _identity.decode(row["identity"]["S"]) if int(row["expiresAt"]["N"]) >= now else None

    async def limit_of(self, ticket: str) -> frozenset[str] | None:
        """The chats that a ticket allows, also when it has been spent. None: it has no such limit, or is unknown."""
        row = await get_one(self._dynamodb, self._table, _key(ticket))
        return _identity.decode(row["identity"]["S"]).chat_ids if row else None


def _key(ticket: str) -> "dict[str, AttributeValueTypeDef]":
    return {"claim": text("ticket#" + sha256(ticket.encode()).hexdigest())}
