"""What is measured: eight scenarios, each on a fresh server with a fresh folder.

A scenario returns figures. A figure with faults (late, lost, out of order, refused) is printed and never counts as
reached: a rate is only as good as what arrived. Latencies are of an open loop, from the moment a message was due.
"""

import contextlib
import dataclasses
import http.client
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.generator import Generator, Result
from bench.issuer import Issuer
from bench.servers import Failure, Launch, Server, free_ports, started

Grant = tuple[str, str]  # user, chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table. Latencies in milliseconds, `cpu` as a share of one core, `memory` in MiB."""

    scenario: str
    step: str
    value: float
    unit: str
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    worst: float | None = None
    cpu: float = 0
    memory: float = 0
    faults: tuple[str, ...] = ()
    closed_loop: bool = False
    raw: Result = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether it may be the figure of its scenario: a closed loop shows capacity, and hides who waits."""
        return not self.faults and not self.closed_loop

    @classmethod
    def of(
        cls,
        result: Result,
        timed: str,
        *,
        scenario: str,
        step: str,
        value: float,
        unit: str,
        faults: tuple[str, ...],
        closed_loop: bool = False,
    ) -> "Figure":
        """From the generator's `result`, whose latencies of interest are under `timed`."""
        times = result[timed] or {}
        return cls(
            scenario=scenario,
            step=step,
            value=value,
            unit=unit,
            p50=times.get("p50"),
            p99=times.get("p99"),
            p999=times.get("p999"),
            worst=times.get("max"),
            cpu=result["server_cpu"],
            memory=result["server_mib"],
            faults=faults,
            closed_loop=closed_loop,
            raw=result,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every scenario stands on: which server, on which core, where; and who signs the tokens."""

    launch: Launch
    issuer: Issuer
    generator: Generator
    folder: Path
    quick: bool
    rates: tuple[int, ...] = ()

    @property
    def peer(self) -> bool:
        """Not Tocsin's wire: other REST, no permissions."""
        return self.launch.dialect == "centrifugo"

    def server(self, scenario: str, kept: int = 0) -> contextlib.AbstractContextManager[Server]:
        return started(self.launch, self.folder / scenario, kept)

    def tokens(self, name: str, users: Iterable[str], scopes: tuple[str, ...] = ()) -> Path:
        return self.lines(f"{name}.tokens", (self.issuer.token(user, scopes) for user in users))

    def lines(self, name: str, lines: Iterable[str]) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def grant(self, server: Server, grants: Iterable[Grant]) -> None:
        if self.peer:
            return
        bodies = [{"userId": user, "chatId": chat, "role": "member"} for user, chat in grants]
        requests = [f"POST /dvl/permissions {json.dumps(body)}" for body in bodies]
        (done,) = self.generator.run(
            "http",
            server,
            connections=min(32, len(requests)),
            count=len(requests),
            requests=self.lines("grants.requests", requests),
            tokens=self.tokens("service", ["back-end"], ("permissions:write",)),
        )
        if done["wrong"]:
            raise Failure(f"{done['wrong']} of {len(requests)} grants were refused")


def found(**counts: float) -> tuple[str, ...]:
    """Of what must not be, what there was."""
    return tuple(f"{count:,.0f} {name.replace('_', ' ')}" for name, count in counts.items() if count)


# -- room, groups, durable, hot, latency: messages through the whole pipeline ------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """`chats` chats with `members` subscribers each; `rates` of publishes a second, 0: as fast as the window allows."""

    name: str
    chats: int
    members: int
    publishers: int
    rates: tuple[int, ...]
    limit: float  # milliseconds that p99 may take
    peer_limit: float = 0  # what another server is granted instead
    of: str = "delivery"  # or "ack": what is timed and counted
    dedupe_every: int = 0
    window: int = 12
    seconds: float = 3
    shares: tuple[float, float] = (0.05, 0.2)  # the baseline and Centrifugo climb the same ladder, scaled

    def measure(self, ground: Ground) -> list[Figure]:
        chats, members = (min(self.chats, 20), min(self.members, 20)) if ground.quick else (self.chats, self.members)
        share = {"baseline": self.shares[0], "centrifugo": self.shares[1]}.get(ground.launch.name, 1)
        rates = ground.rates or tuple(round(rate * share) for rate in self.rates)
        if ground.quick:
            rates = rates[:1]
        with ground.server(self.name) as server:
            names = [f"chat-{i}" for i in range(chats)]
            ground.grant(server, [(user, chat) for user in ("member", "publisher") for chat in names])
            results = ground.generator.run(
                "publish",
                server,
                chats=chats,
                members=members,
                publishers=self.publishers,
                window=self.window,
                dedupe_every=self.dedupe_every,
                run=self.name,
                rates=",".join(map(str, rates)),
                duration=0.7 if ground.quick else self.seconds,
                warmup=0.2 if ground.quick else 1,
                tokens=ground.tokens("member", ["member"]),
                publisher_tokens=ground.tokens("publisher", ["publisher"]),
            )
            server.settle()
            lost = 0 if ground.peer else sum(r["acked"] for r in results) - sum_of_heads(ground, server, names)
        figures = [self.figure(ground, result) for result in results]
        if lost > 0:
            raise Failure(f"{self.name}: {lost} acknowledged messages are not in history")
        return figures

    def figure(self, ground: Ground, result: Result) -> Figure:
        rate, timed = result["rate"], result[self.of] or {"p99": float("inf")}
        faults = found(**{name: result[name] for name in ("missing", "holes", "repeats", "gapped", "errors", "lost")})
        if rate and result["acks_per_s"] < 0.95 * rate:
            faults += (f"only {result['acks_per_s']:,.0f} publishes/s",)
        limit = self.limit if ground.launch.name == "tocsin" else self.peer_limit or self.limit
        if timed["p99"] > limit:
            faults += (f"p99 over {limit:g} ms",)
        if faults and result["generator_cpu"] > 0.95:
            faults += (f"the generator was at {result['generator_cpu']:.0%}",)
        if self.dedupe_every and ground.peer and not ground.launch.postgres:
            faults += ("in memory only",)
        step = f"{rate:,} publishes/s" if rate else f"window {self.publishers} x {self.window}"
        counted, unit = ("deliveries_per_s", "deliveries/s") if self.of == "delivery" else ("acks_per_s", "publishes/s")
        value = result[counted]
        if self.name == "latency":
            value, unit = timed["p99"], "ms p99"
        return Figure.of(
            result,
            self.of,
            scenario=self.name,
            step=step,
            value=value,
            unit=unit,
            faults=faults,
            closed_loop=not rate,
        )


def sum_of_heads(ground: Ground, server: Server, chats: list[str]) -> int:
    """How many numbered messages all chats hold together, as history says."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    headers = {"Authorization": f"Bearer {ground.issuer.token('member')}"}
    total = 0
    for chat in chats:
        connection.request("GET", f"/dvl/messages?chatId={chat}&limit=1", headers=headers)
        page = json.loads(connection.getresponse().read())
        newest = page["messages"][0]["sequenceNumber"] if page["messages"] else 0
        if newest != page["headSequence"]:
            raise Failure(f"{chat}: the newest message has number {newest}, the head is {page['headSequence']}")
        total += newest
    connection.close()
    return total


PIPELINES = (
    Pipeline(name="latency", chats=100, members=10, publishers=4, rates=(1000,), limit=6, seconds=10, shares=(1, 1)),
    Pipeline(
        name="room",
        chats=1,
        members=1000,
        publishers=4,
        rates=(500, 1000, 2000, 3000, 4000, 5000, 6000),
        limit=50,
        peer_limit=250,
        shares=(0.025, 0.2),
    ),
    Pipeline(
        name="groups",
        chats=1000,
        members=10,
        publishers=8,
        rates=(4000, 8000, 10_000, 12_000, 15_000, 20_000),
        limit=100,
        peer_limit=250,
        shares=(0.15, 0.5),
    ),
    Pipeline(
        name="durable",
        chats=1000,
        members=0,
        publishers=64,
        rates=(0, 10_000, 20_000, 30_000, 40_000, 50_000),
        limit=50,
        window=12,
        of="ack",
        dedupe_every=10,
        shares=(0.15, 0.05),
    ),
    Pipeline(
        name="hot",
        chats=1,
        members=10,
        publishers=64,
        rates=(0, 20_000, 30_000, 40_000, 50_000, 60_000),
        limit=50,
        window=12,
        of="ack",
        dedupe_every=10,
        shares=(0.15, 0.05),
    ),
)


# -- idle, connect, storm: connections ---------------------------------------------------------------------------------


def idle(ground: Ground) -> list[Figure]:
    """What a connection costs that only is there, and the process before any."""
    count = 300 if ground.quick else 15_000
    chats = count // 10
    with ground.server("idle") as server:
        ground.grant(server, [("member", f"chat-{i}") for i in range(chats)])
        server.settle(5)
        before = server.memory()
        tokens = ground.tokens("member", ["member"])
        with ground.generator.held(server, connections=count, chats=chats, tokens=tokens) as result:
            server.settle(5)
            cpu, watched = server.cpu(), 0.5 if ground.quick else 10
            time.sleep(watched)
            each = (server.memory() - before) / count / 1024
            share, memory = (server.cpu() - cpu) / watched, server.memory() / 2**20
    faults = found(refused=result["refused"], lost=result["lost"])
    step = f"{count:,} connections"
    base = Figure(scenario="idle base", step="no connection", value=before / 2**20, unit="MiB", memory=before / 2**20)
    return [
        Figure(
            scenario="idle", step=step, value=each, unit="KiB each", cpu=share, memory=memory, faults=faults, raw=result
        ),
        base,
    ]


def connect(ground: Ground) -> list[Figure]:
    """Token, permission, upgrade, `subscribed`: a user, a token and a grant for each; then the same tokens again."""
    count, chats = (200, 20) if ground.quick else (10_000, 1000)
    users = [f"user-{i}" for i in range(count)]
    figures = []
    with ground.server("connect") as server:
        ground.grant(server, [(user, f"chat-{i % chats}") for i, user in enumerate(users)])
        tokens = ground.tokens("users", users)
        for scenario in ("connect", "connect again"):
            server.settle()
            (result,) = ground.generator.run("connect", server, connections=count, chats=chats, tokens=tokens)
            figures.append(
                Figure.of(
                    result,
                    "connect",
                    scenario=scenario,
                    step=f"{count:,} connections",
                    value=result["per_s"],
                    unit="connects/s",
                    faults=found(refused=result["refused"], lost=result["lost"]),
                )
            )
    return figures


def storm(ground: Ground) -> list[Figure]:
    """All drop, each chat gets 20 messages, all resume at once, until the last is whole; new tokens, then known."""
    count, chats = (100, 10) if ground.quick else (5000, 500)
    users = [f"user-{i}" for i in range(count)]
    figures = []
    with ground.server("storm", kept=300) as server:
        ground.grant(server, [(user, f"chat-{i % chats}") for i, user in enumerate(users)])
        ground.grant(server, [("publisher", f"chat-{i}") for i in range(chats)])
        tokens, fresh = ground.tokens("users", users), ground.tokens("users-again", users)
        for scenario, again in (("storm", fresh), ("storm again", fresh)):
            server.settle()
            (result,) = ground.generator.run(
                "storm",
                server,
                connections=count,
                chats=chats,
                publishers=4,
                parallel=2000,
                tokens=tokens,
                tokens_again=again,
                publisher_tokens=ground.tokens("publisher", ["publisher"]),
            )
            faults = found(
                not_whole=count - result["whole"],
                **{name: result[name] for name in ("incomplete", "holes", "repeats", "errors", "refused", "lost")},
            )
            figures.append(
                Figure.of(
                    result,
                    "connect",
                    scenario=scenario,
                    step=f"{count:,} clients x {result['missed']}",
                    value=result["seconds"],
                    unit="s until whole",
                    faults=faults,
                )
            )
    return figures


# -- history -----------------------------------------------------------------------------------------------------------


def history(ground: Ground) -> list[Figure]:
    """Pages of 50 from a chat of a million messages: the newest; then anywhere in it, by number."""
    batches = 10 if ground.quick else 2000
    total, figures = batches * 500, []
    with ground.server("history", kept=total) as server:
        ground.grant(server, [("member", "chat-0")])
        fill, pages = history_requests(ground, total)
        member = ground.tokens("member", ["member"])
        (filled,) = ground.generator.run(
            "http",
            server,
            connections=4,
            count=batches,
            tokens=member,
            requests=ground.lines("fill.requests", [fill]),
        )
        if filled["wrong"]:
            raise Failure(f"history: {filled['wrong']} of {batches} batches were refused")
        server.settle()
        for scenario, lines in pages.items():
            (result,) = ground.generator.run(
                "http",
                server,
                connections=16,
                duration=0.7 if ground.quick else 5,
                expect=50,
                tokens=member,
                counting='"content"',
                requests=ground.lines("pages.requests", lines),
            )
            figures.append(
                Figure.of(
                    result | {"fill_per_s": filled["per_s"] * 500},
                    "latency",
                    scenario=scenario,
                    step=f"{total:,} messages",
                    value=result["per_s"],
                    unit="requests/s",
                    faults=found(wrong=result["wrong"]),
                )
            )
    return figures


def history_requests(ground: Ground, total: int) -> tuple[str, dict[str, list[str]]]:
    """The request that adds 500 messages, and for each kind of reading the requests for pages of 50."""
    payload = {"chatId": "chat-0", "eventType": "bench", "content": "x" * 100}
    anywhere = random.Random(1)
    starts = [anywhere.randint(1, total - 50) for _ in range(1000)]
    if ground.peer:
        command = {"publish": {"channel": "chat-0", "data": payload}}
        fill = f"POST /api/batch {json.dumps({'commands': [command] * 500})}"
        newest = {"channel": "chat-0", "limit": 50, "reverse": True}
        return fill, {"history": [f"POST /api/history {json.dumps(newest)}"]}
    publish = {"messageType": "fifo", "payload": payload}
    fill = f"POST /dvl/publish/batch {json.dumps({'messages': [publish] * 500})}"
    page = "GET /dvl/messages?chatId=chat-0&limit=50"
    return fill, {"history": [page], "history anywhere": [f"{page}&fromSequence={start}" for start in starts]}


# -- the generator itself ----------------------------------------------------------------------------------------------


def ceiling(ground: Ground) -> list[Figure]:
    """What the generator can take in: frames like a room's from a trivial sender instead of a server."""
    figures = []
    for rate in (2000,) if ground.quick else (4000, 8000, 12000, 16000):
        (port,) = free_ports(1)
        members = 100 if ground.quick else 1000
        source = dataclasses.replace(ground.generator, core=ground.launch.core)
        words = source.words("sender", port, {"connections": members, "rates": rate})
        with subprocess.Popen(words, stdout=subprocess.PIPE) as sender:
            assert sender.stdout is not None
            sender.stdout.readline()  # it listens
            server = Server(name="sender", pid=sender.pid, port=port, rest_port=port)
            tokens = ground.lines("none.tokens", ["none"])
            options = {"members": members, "publishers": 0, "drain": 0, "tokens": tokens}
            (result,) = ground.generator.run("publish", server, duration=0.7 if ground.quick else 3, **options)
            sender.terminate()
        figures.append(
            Figure.of(
                result | {"server_cpu": result["generator_cpu"]},
                "delivery",
                scenario="ceiling",
                step=f"{rate:,} x {members:,} frames/s sent",
                value=result["deliveries_per_s"],
                unit="frames/s",
                faults=found(holes=result["holes"], repeats=result["repeats"]),
            )
        )
    return figures


SCENARIOS: dict[str, Callable[[Ground], list[Figure]]] = {
    **{pipeline.name: pipeline.measure for pipeline in PIPELINES},
    "storm": storm,
    "connect": connect,
    "idle": idle,
    "history": history,
}

# What Tocsin is to reach: (at least or at most, how much), in the figure's unit.
REACH: dict[str, tuple[str, float]] = {
    "latency": ("≤", 6),
    "room": ("≥", 2_000_000),
    "groups": ("≥", 100_000),
    "durable": ("≥", 30_000),
    "hot": ("≥", 40_000),
    "storm": ("≤", 1),
    "connect": ("≥", 6000),
    "connect again": ("≥", 12_000),
    "idle": ("≤", 3),
    "idle base": ("≤", 100),
    "history": ("≥", 5000),
}
