"""Once `DELETE /permissions` has answered: nothing beyond the fence is heard, nothing is published, nothing is read."""

import asyncio
import json
import random

import pytest

from tests.guarantees.drafts import draft, drafts
from tests.guarantees.publishers import SocketPublisher
from tests.guarantees.recorder import Recorder
from tests.guarantees.records import Acked, Refused
from tests.guarantees.server import Service
from tests.guarantees.traffic import OUTCAST, ROOMS, Traffic, revoke_once

pytestmark = pytest.mark.slow


async def test_a_hundred_revocations_under_load_hold(service: Service, recorder: Recorder) -> None:
    chance = random.Random(100)
    await service.start("revoke.tombstoned=stall:10")  # long enough for messages to come in between
    outcast = SocketPublisher(recorder, OUTCAST, drafts(OUTCAST, ROOMS[:2], 100), pause=0.005)
    async with Traffic(recorder, seed=100, revokes=False) as traffic:
        publishing = asyncio.create_task(outcast.run())
        for count in range(100):
            pause = chance.choice((0.0, 0.01, 0.03))
            await revoke_once(recorder, OUTCAST, ROOMS[count % 2], f"{OUTCAST} {count}", pause)
        outcast.stop()
        await publishing
        breaches = await traffic.finish()
    assert breaches == []
    answers = [publish.answer for publish in recorder.log.publishes if publish.sender == OUTCAST]
    assert any(isinstance(answer, Acked) for answer in answers), "a test in which nothing was allowed shows nothing"
    assert {answer.code for answer in answers if isinstance(answer, Refused)} == {"forbidden"}


async def test_a_repeated_revocation_answers_the_first_fence(service: Service, recorder: Recorder) -> None:
    await service.start()
    room = ROOMS[0]
    params: dict[str, str | int] = {"userId": OUTCAST, "chatId": room}
    assert (await recorder.insist("DELETE", "/permissions", params=params)).status_code == 404
    await recorder.grant(OUTCAST, room, "reader")
    await recorder.publish(draft(room, "one"))
    first = (await recorder.insist("DELETE", "/permissions", params=params)).json()
    assert first == {"userId": OUTCAST, "chatId": room, "fenceSequence": 1}
    await recorder.publish(draft(room, "two"))
    service.kill()
    await service.start()
    assert (await recorder.insist("DELETE", "/permissions", params=params)).json() == first
    await recorder.grant(OUTCAST, room, "reader")
    assert (await recorder.insist("DELETE", "/permissions", params=params)).json()["fenceSequence"] == 2


async def test_a_reader_neither_publishes_nor_promotes_himself(service: Service, recorder: Recorder) -> None:
    await service.start()
    await recorder.grant(OUTCAST, ROOMS[0], "reader")
    refused = await recorder.publish(draft(ROOMS[0], "a reader's"), OUTCAST)
    assert refused.answer == Refused(status=403, code="forbidden")
    body = json.dumps({"userId": OUTCAST, "chatId": ROOMS[0], "role": "owner"}).encode()
    answer = await recorder.insist("POST", "/permissions", user=OUTCAST, body=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
