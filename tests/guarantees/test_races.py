"""Two at once: a ticket works for one of them, and a chat keeps an owner."""

import asyncio
import json

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.guarantees.checker import check
from tests.guarantees.recorder import Recorder, now, open_socket
from tests.guarantees.records import OwnersRead, TicketUse
from tests.guarantees.server import Service
from tests.guarantees.traffic import MEMBERS, OWNER, ROOMS

pytestmark = pytest.mark.slow


async def test_a_ticket_works_for_one_of_ten(service: Service, recorder: Recorder) -> None:
    refusals: list[int] = []
    await service.start()

    async def present(ticket: str) -> None:
        try:
            async with open_socket(service, "alice", f"?ticket={ticket}", additional_headers={}):
                accepted = True
        except InvalidStatus as refusal:
            accepted = False
            refusals.append(refusal.response.status_code)
        recorder.log.tickets.append(TicketUse(ticket=ticket, at=now(), accepted=accepted))

    for _ in range(20):
        offer = await recorder.insist("POST", "/tickets", user="alice")
        assert offer.json()["expiresIn"] == 60
        await asyncio.gather(*(present(offer.json()["ticket"]) for _ in range(10)))
    assert check(recorder.log) == []
    assert sum(use.accepted for use in recorder.log.tickets) == 20
    assert refusals == [401] * 180


async def test_two_owners_who_remove_each_other_leave_one(service: Service, recorder: Recorder) -> None:
    await service.start()
    room, other = ROOMS[0], MEMBERS[0]
    refusals = []
    for count in range(30):
        await recorder.grant(OWNER, room, "owner")
        await recorder.grant(other, room, "owner")
        await see_owners(recorder, room)
        if count % 2:
            answers = await asyncio.gather(
                *(remove(recorder, *pair, room) for pair in ((OWNER, other), (other, OWNER)))
            )
        else:
            answers = await asyncio.gather(*(demote(recorder, user, room) for user in (OWNER, other)))
        refusals += [answer.json()["code"] for answer in answers if answer.status_code != 200]
        await see_owners(recorder, room)
    assert set(refusals) <= {"last_owner", "forbidden"}
    assert len(refusals) == 30
    assert check(recorder.log) == []


async def remove(recorder: Recorder, actor: str, user: str, room: str) -> httpx.Response:
    return await recorder.insist("DELETE", "/permissions", user=actor, params={"userId": user, "chatId": room})


async def demote(recorder: Recorder, user: str, room: str) -> httpx.Response:
    body = json.dumps({"userId": user, "chatId": room, "role": "member"}).encode()
    return await recorder.insist("POST", "/permissions", user=user, body=body)


async def see_owners(recorder: Recorder, room: str) -> None:
    asked_at = now()
    answer = await recorder.insist("GET", "/permissions", params={"chatId": room, "limit": 100})
    owners = tuple(row["userId"] for row in answer.json()["permissions"] if row["role"] == "owner")
    recorder.log.owners.append(OwnersRead(chat=room, asked_at=asked_at, owners=owners))
