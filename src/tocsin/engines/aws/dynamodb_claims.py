"""Claims: which id a sender has used in a chat, for which message.

    SnsBus.publish -> claim -> (SNS) -> settle

Rules:
- a claim names the message before SNS has it: who dies in between leaves a claim that is not settled, and whoever
  repeats the publish sends the message as it was stamped then, under the same id and in the same place;
- peers do not wait for one another: they may send a message twice, and numbering and storing make one of it;
- a claim is never taken back: somebody may just be publishing what it names.
"""

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.rows import get_one, number, text
from tocsin.errors import Refusal
from tocsin.message import Publication

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: For how long an id is remembered, in milliseconds: SNS forgets after five minutes, and repeats last longer.
WINDOW: Final = 10 * 60_000
#: DynamoDB may delete the row so many seconds later.
_TTL_SECONDS: Final = 3_600


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The message that the id stands for. `mine`: this very publish; `settled`: SNS has it."""

    message_id: str
    timestamp: int
    mine: bool
    settled: bool


class DynamodbClaims:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def claim(self, publication: Publication, now: int) -> Claim:
        """Refuses with `idempotency_conflict` where the id was used for something else."""
        key, digest = _key(publication), publication.fingerprint().hex()
        try:
            await self._dynamodb(
                lambda client: client.put_item(
                    TableName=self._table,
                    Item={
                        "claim": text(key),
                        "messageId": text(publication.message_id),
                        "stamp": number(publication.timestamp),
                        "bodyHash": text(digest),
                        "published": {"BOOL": False},
                        "expiresAt": number(now + WINDOW),
                        "ttl": number((now + WINDOW) // 1000 + _TTL_SECONDS),
                    },
                    ConditionExpression="attribute_not_exists(claim) OR expiresAt <= :now",
                    ExpressionAttributeValues={":now": number(now)},
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
        else:
            return Claim(message_id=publication.message_id, timestamp=publication.timestamp, mine=True, settled=False)
        item = await get_one(self._dynamodb, self._table, {"claim": text(key)})
        if item["bodyHash"]["S"] != digest:
            raise Refusal(
                "idempotency_conflict",
                "This id was used for another message within the last minutes.",
                field="messageDeduplicationId",
                chat_id=publication.chat_id,
            )
        message_id = item["messageId"]["S"]
        return Claim(
            message_id=message_id,
            timestamp=int(item["stamp"]["N"]),
            mine=message_id == publication.message_id,
            settled=item["published"]["BOOL"],
        )

    async def settle(self, publication: Publication, message_id: str) -> None:
        """SNS has the message: later repeats need not send it again."""
        try:
            await self._dynamodb(
                lambda client: client.update_item(
                    TableName=self._table,
                    Key={"claim": text(_key(publication))},
                    UpdateExpression="SET published = :yes",
                    ConditionExpression="messageId = :id",
                    ExpressionAttributeValues={":yes": {"BOOL": True}, ":id": text(message_id)},
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:  # else it has expired, and another message has the id
                raise


def _key(publication: Publication) -> str:
    """No identifier holds a zero byte, so no two of these are the same."""
    parts = (publication.sender_id, publication.chat_id, publication.deduplication_id or "")
    return "publish#" + sha256("\0".join(parts).encode()).hexdigest()
