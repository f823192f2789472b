"""The baseline: what a competent person writes in an afternoon with websockets, FastAPI, PyJWT and SQLite.

It speaks the part of Tocsin's wire that the benchmark uses: upgrade with `?token=&chatId=&lastSequence=`, `sendMessage`
and `subscribe`, acknowledged, numbered, durable (WAL, synchronous=FULL), and the REST requests for publishing, history
and permissions. Publishes that arrive while a transaction is being committed go into the next one. WebSocket and REST
listen on two ports of one process and one event loop.
"""

import argparse
import asyncio
import functools
import json
import sqlite3
import urllib.request
import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import jwt
import uvicorn
import uvloop
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from fastapi.responses import JSONResponse
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.http11 import Request, Response

SCHEMA = """
CREATE TABLE IF NOT EXISTS permissions (user TEXT, chat TEXT, role TEXT, PRIMARY KEY (user, chat)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (chat TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (chat TEXT, number INTEGER, message TEXT, PRIMARY KEY (chat, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (sender TEXT, chat TEXT, id TEXT, message_id TEXT, timestamp TEXT,
                                   PRIMARY KEY (sender, chat, id)) WITHOUT ROWID;
"""
LARGEST_BATCH = 1000
encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Publish:
    """One message on its way: who sent it where, what, and where the answer goes."""

    sender: str
    chat: str
    body: dict[str, Any]
    answer: "asyncio.Future[dict[str, Any]] | tuple[ServerConnection, str] | None"


class Store:
    """SQLite: one connection that writes, from a thread; one that reads, on the event loop."""

    def __init__(self, folder: Path) -> None:
        self.writer, self.reader = (
            sqlite3.connect(folder / "chats.db", check_same_thread=False, isolation_level=None) for _ in range(2)
        )
        for database in (self.writer, self.reader):
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
        self.writer.executescript(SCHEMA)

    def append(self, batch: list[Publish]) -> list[tuple[dict[str, Any], str | None]]:
        """Number and store in one transaction; returns each one's receipt and its frame (None: a duplicate)."""
        with self.writer:  # commits, or rolls back
            self.writer.execute("BEGIN IMMEDIATE")
            return [self._append_one(publish) for publish in batch]

    def _append_one(self, publish: Publish) -> tuple[dict[str, Any], str | None]:
        body, chat, message_id = publish.body, publish.chat, str(uuid.uuid4())
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if claim := body.get("messageDeduplicationId"):
            key = (publish.sender, chat, claim)
            first = self.writer.execute(
                "SELECT message_id, timestamp FROM claims WHERE sender=? AND chat=? AND id=?", key
            ).fetchone()
            if first:
                return {"messageId": first[0], "timestamp": first[1], "duplicate": True}, None
            self.writer.execute("INSERT INTO claims VALUES (?, ?, ?, ?, ?)", (*key, message_id, timestamp))
        (number,) = self.writer.execute(
            "INSERT INTO heads VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1 RETURNING number", (chat,)
        ).fetchone()
        message = encode({
            "type": "message", "messageId": message_id, "messageType": body.get("messageType", "standard"),
            "targetChannel": "WebSocket", "timestamp": timestamp, "senderId": publish.sender,
            "sequenceNumber": number, "payload": body["payload"],
        })  # fmt: skip
        self.writer.execute("INSERT INTO messages VALUES (?, ?, ?)", (chat, number, message))
        return {"messageId": message_id, "timestamp": timestamp, "duplicate": False}, message

    def between(self, chat: str, first: int, last: int, limit: int, order: str) -> list[str]:
        rows = self.reader.execute(
            f"SELECT message FROM messages WHERE chat=? AND number BETWEEN ? AND ? ORDER BY number {order} LIMIT ?",
            (chat, first, last, limit),
        )
        return [message for (message,) in rows]

    def role(self, user: str, chat: str) -> str | None:
        row = self.reader.execute("SELECT role FROM permissions WHERE user=? AND chat=?", (user, chat)).fetchone()
        return row[0] if row else None

    def grant(self, user: str, chat: str, role: str) -> None:
        self.writer.execute("INSERT OR REPLACE INTO permissions VALUES (?, ?, ?)", (user, chat, role))


class Service:
    """Publishes go through one queue to one task, which commits them in batches, answers, and fans out."""

    def __init__(self, folder: Path, issuer: str, audience: str) -> None:
        self.store, self.issuer, self.audience = Store(folder), issuer, audience
        self.queue: asyncio.Queue[Publish] = asyncio.Queue(20_000)
        self.writing = asyncio.Lock()
        self.members: defaultdict[str, set[ServerConnection]] = defaultdict(set)
        # What has been fanned out: a replay goes up to it, the rest comes live.
        self.heads: dict[str, int] = dict(self.store.reader.execute("SELECT chat, number FROM heads").fetchall())
        with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration") as discovery:
            self.keys = jwt.PyJWKClient(json.load(discovery)["jwks_uri"])

    def claims(self, token: str) -> dict[str, Any]:
        key = self.keys.get_signing_key_from_jwt(token)
        return jwt.decode(token, key, algorithms=["RS256"], issuer=self.issuer, audience=self.audience)

    async def write(self) -> None:
        while True:
            batch = [await self.queue.get()]
            while len(batch) < LARGEST_BATCH and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            async with self.writing:
                done = await asyncio.to_thread(self.store.append, batch)
            for publish, (receipt, message) in zip(batch, done, strict=True):
                if isinstance(publish.answer, tuple):
                    connection, request_id = publish.answer
                    broadcast([connection], encode({"type": "ack", "requestId": request_id, **receipt}))
                elif publish.answer is not None and not publish.answer.done():
                    publish.answer.set_result(receipt)
                if message is not None:
                    self.heads[publish.chat] = self.heads.get(publish.chat, 0) + 1
                    broadcast(self.members[publish.chat], message)

    def authorize(self, connection: ServerConnection, request: Request) -> Response | None:
        """The upgrade: token and permissions, before the 101."""
        query = parse_qs(urlsplit(request.path).query)
        token = query.get("token", [request.headers.get("Authorization", "").removeprefix("Bearer ")])[0]
        try:
            connection.user = self.claims(token)["sub"]  # type: ignore[attr-defined]
        except jwt.PyJWTError:
            return connection.respond(HTTPStatus.UNAUTHORIZED, "invalid_token\n")
        if any(self.store.role(connection.user, chat) is None for chat in query.get("chatId", [])):  # type: ignore[attr-defined]
            return connection.respond(HTTPStatus.FORBIDDEN, "forbidden\n")
        return None

    def subscribe(self, connection: ServerConnection, chat: str, last: int | None) -> None:
        head = self.heads.get(chat, 0)
        for message in self.store.between(chat, last + 1, head, 10_000, "ASC") if last is not None else []:
            broadcast([connection], message)
        subscribed = {"type": "subscribed", "chatId": chat, "headSequence": head, "oldestSequence": 1, "epoch": "0",
                      "recovered": True, "connectionId": str(connection.id)}  # fmt: skip
        broadcast([connection], encode(subscribed))
        self.members[chat].add(connection)

    async def serve_connection(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        query, user = parse_qs(urlsplit(connection.request.path).query), connection.user  # type: ignore[attr-defined]
        last = int(query["lastSequence"][0]) if "lastSequence" in query else None
        chats = set(query.get("chatId", []))
        try:
            for chat in chats:
                self.subscribe(connection, chat, last)
            async for text in connection:
                action = json.loads(text)
                chat = action["payload"]["chatId"] if action["action"] == "sendMessage" else action["chatId"]
                role = self.store.role(user, chat)
                if role is None or (role == "reader" and action["action"] == "sendMessage"):
                    refusal = {"type": "error", "code": "forbidden", "requestId": action.get("requestId")}
                    await connection.send(encode(refusal))
                elif action["action"] == "sendMessage":
                    answer = (connection, action["requestId"]) if "requestId" in action else None
                    await self.queue.put(Publish(user, chat, action, answer))
                elif action["action"] == "subscribe":
                    self.subscribe(connection, chat, action.get("lastSequence"))
                    chats.add(chat)
        finally:
            for chat in chats:
                self.members[chat].discard(connection)


def rest(service: Service) -> FastAPI:
    app = FastAPI()

    def bearer(authorization: Annotated[str, Header()]) -> dict[str, Any]:
        try:
            return service.claims(authorization.removeprefix("Bearer "))
        except jwt.PyJWTError:
            raise HTTPException(401, "invalid_token") from None

    Claims = Annotated[dict[str, Any], Depends(bearer)]  # noqa: N806  (a type)

    @app.post("/dvl/publish", status_code=202)
    async def publish(claims: Claims, body: dict[str, Any]) -> dict[str, Any]:
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        message = Publish(claims["sub"], body["payload"]["chatId"], body, answer)
        if service.store.role(message.sender, message.chat) in (None, "reader"):
            raise HTTPException(403, "forbidden")
        await service.queue.put(message)
        return await answer

    @app.post("/dvl/publish/batch")
    async def publish_batch(claims: Claims, body: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        return {"results": await asyncio.gather(*(publish(claims, one) for one in body["messages"]))}

    @app.post("/dvl/permissions")
    async def grant(claims: Claims, body: dict[str, str]) -> dict[str, Any]:
        if "permissions:write" not in claims.get("scope", "").split():
            raise HTTPException(403, "forbidden")
        async with service.writing:
            await asyncio.to_thread(service.store.grant, body["userId"], body["chatId"], body["role"])
        return body | {"grantedBy": claims["sub"]}

    Number = Annotated[int | None, Query(alias="fromSequence")]  # noqa: N806  (a type)

    @app.get("/dvl/messages")
    async def history(
        claims: Claims, chat: Annotated[str, Query(alias="chatId")], limit: int = 50, first: Number = None
    ) -> JSONResponse:
        if service.store.role(claims["sub"], chat) is None:
            raise HTTPException(403, "forbidden")
        order, head = "DESC" if first is None else "ASC", service.heads.get(chat, 0)
        messages = [json.loads(m) for m in service.store.between(chat, first or 1, head, limit, order)]
        return JSONResponse({"messages": messages, "nextStartKey": None, "headSequence": head})

    return app


async def main(service: Service, port: int, rest_port: int) -> None:
    server = uvicorn.Server(uvicorn.Config(rest(service), port=rest_port, log_level="warning", http="httptools"))
    listen = functools.partial(serve, process_request=service.authorize, compression=None, backlog=4096)
    async with asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(service.write())
        async with listen(service.serve_connection, "127.0.0.1", port):
            await server.serve()  # until SIGTERM or SIGINT
        writer.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("data", Path), ("port", int), ("rest-port", int), ("issuer", str), ("audience", str)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    options = parser.parse_args()
    uvloop.run(main(Service(options.data, options.issuer, options.audience), options.port, options.rest_port))
