"""The process: alone on its folder, gone without a loss when told to, back at once when killed, and discreet."""

import asyncio
import json
import subprocess
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.guarantees import raw
from tests.guarantees.checker import check
from tests.guarantees.drafts import PRIVATE, Draft, draft
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder, now, open_socket, read_frame
from tests.guarantees.records import Acked, Closed, Refused, TicketUse
from tests.guarantees.server import PROGRAM, Service, environment, free_port
from tests.guarantees.traffic import ROOMS, Traffic, settle

pytestmark = pytest.mark.slow

ROOM = ROOMS[0]


async def test_a_second_process_on_the_folder_is_refused(service: Service, recorder: Recorder) -> None:
    await service.start()
    command = [*PROGRAM, "serve", "--data", str(service.data), "--port", f"{free_port()}", "--ops-port", "0"]
    second = await asyncio.to_thread(
        subprocess.run, command, env=environment(), capture_output=True, text=True, timeout=20
    )
    assert second.returncode == 1
    assert str(service.data) in second.stderr + second.stdout, "it names the folder"
    assert "Traceback" not in second.stderr
    assert isinstance((await recorder.publish(draft(ROOM, "the first goes on"))).answer, Acked)


async def test_sigterm_answers_what_is_in_flight_and_spreads_the_clients_return(
    service: Service, recorder: Recorder
) -> None:
    await service.start("commit.before_sync=stall:300")
    readers = [Reader(recorder, "carol", [ROOM], f"carol {count}") for count in range(40)]
    async with reading(*readers), AsyncExitStack() as opened:
        sockets = [await opened.enter_async_context(open_socket(service, "alice")) for _ in range(10)]
        posts = [await opened.enter_async_context(raw.connected(service)) for _ in range(10)]
        drafts = [draft(ROOM, f"in flight {count}") for count in range(20)]
        sent_at = now()
        for socket, message in zip(sockets, drafts[:10], strict=True):
            await socket.send(message.body("one"), text=True)
        for (_, writer), message in zip(posts, drafts[10:], strict=True):
            writer.write(posted(service, message))
        await recorder.ask("GET", f"/messages?chatId={ROOM}")  # answered: what was sent before it has been read
        told = now()
        service.terminate()
        answers = [await ack_and_end(socket) for socket in sockets] + [await receipt(reader) for reader, _ in posts]
        for message, answer in zip(drafts, answers, strict=True):
            recorder.wrote("alice", message, sent_at, answer)
        assert await service.ended(30) == 0
        assert now() - told < 30
        await recorder.until(lambda: not any(reader.stands for reader in readers), "the readers' ends")
        ends = [event for each in recorder.log.subscriptions for event in each.events if isinstance(event, Closed)]
        assert {end.code for end in ends} == {1012}
        waits = [int(end.reason.removeprefix("retryAfter=")) for end in ends]
        assert len(waits) == len(readers)
        assert len(set(waits)) > len(readers) // 2, "not all come back at once"
    await service.start()
    await settle(recorder, [ROOM])
    assert check(recorder.log) == []


def posted(service: Service, message: Draft) -> bytes:
    head = (f"Authorization: Bearer {service.tokens['alice']}", "Content-Type: application/json")
    return raw.request("POST", "/dvl/publish", *head, body=message.body())


async def receipt(reader: asyncio.StreamReader) -> Acked:
    answer = await raw.read_answer(reader)
    assert answer.status == 202, answer
    found = json.loads(answer.body)
    return Acked(message_id=found["messageId"], timestamp=found["timestamp"], duplicate=found["duplicate"])


async def ack_and_end(socket: ClientConnection) -> Acked:
    """Its publish is acknowledged, and then the service closes it."""
    ack = read_frame(await socket.recv(decode=False))
    assert (ack.type, ack.request_id) == ("ack", "one")
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    return Acked(message_id=ack.message_id, timestamp=ack.timestamp, duplicate=ack.duplicate)


async def test_sigterm_under_load_loses_nothing(service: Service, recorder: Recorder) -> None:
    await service.start()
    async with Traffic(recorder, seed=12) as traffic:
        for _ in range(2):
            await traffic.run_until(200)
            service.terminate()
            assert await service.ended(30) == 0
            await service.start()
        breaches = await traffic.finish()
    assert breaches == []


async def test_it_is_back_at_once_with_a_long_unmoved_log(service: Service, recorder: Recorder) -> None:
    await service.start("storage.mid_move=stall:600000")
    for first in range(0, 20_000, 500):
        batch = [draft(ROOMS[count % len(ROOMS)], f"{count}") for count in range(first, first + 500)]
        await recorder.publish_batch(batch)
    service.kill()
    await service.come_back()
    reads = await settle(recorder, ROOMS)
    assert sum(len(read.rows) for read in reads.values()) == 20_000
    assert check(recorder.log) == []


async def test_no_credential_reaches_the_output(service: Service, recorder: Recorder) -> None:
    """At every door: the address, the head, the body; good ones and bad ones."""
    await service.start(flags=("--publish-rate", "100"))
    token = service.tokens["alice"]
    ticket = (await recorder.insist("POST", "/tickets", user="alice", body=b"{}")).json()["ticket"]
    recorder.log.secrets |= {ticket, token[:-4]}
    for query in (f"?token={token}", f"?ticket={ticket}", f"?ticket={ticket}", f"?token={token[:-4]}", "?token=a.b.c"):
        try:
            async with open_socket(service, "alice", query, additional_headers={}):
                accepted = True
        except (OSError, WebSocketException):
            accepted = False
        if "ticket" in query:
            recorder.log.tickets.append(TicketUse(ticket=ticket, at=now(), accepted=accepted))
    await recorder.ask("GET", f"/messages?chatId={ROOM}&token={token}", user="alice")
    await recorder.ask("POST", "/publish", user="alice", body=f'{{"payload":"{PRIVATE}"'.encode())
    refused = await recorder.publish(draft("nowhere", "not allowed"), "alice")
    assert refused.answer == Refused(status=403, code="forbidden")
    async with open_socket(service, "alice") as connection:
        await connection.send(f'{{"action":"refreshToken","token":"{token[:-4]}"}}')
        await connection.send(f'{{"action":"{PRIVATE}"}}')
        assert [read_frame(await connection.recv(decode=False)).type for _ in range(2)] == ["error", "error"]
    service.terminate()
    assert await service.ended(30) == 0
    recorder.log.output = service.output
    assert recorder.log.output, "it says something, or this shows nothing"
    assert "Traceback" not in recorder.log.output
    assert check(recorder.log) == []
