"""The embedded profile: one process, one folder, one port; settings -> engine + gateway, wired.

folder -> keys -> engine -> service -> front (WebSocket and REST), ops listener, admin.sock -> SIGTERM -> all back
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, Literal

import msgspec
import structlog
import uvloop

from tocsin import logs
from tocsin.clock import SystemClock
from tocsin.engines.embedded.data_folder import FolderError
from tocsin.engines.embedded.engine import EmbeddedEngine, EmbeddedSettings
from tocsin.engines.file_keys import ISSUER, FileKeys
from tocsin.engines.oidc_keys import OidcKeys
from tocsin.failpoints import Failpoints
from tocsin.gateways.admin import AdminApi
from tocsin.gateways.conversation import Conversations
from tocsin.gateways.cursors import Cursors
from tocsin.gateways.frames import text_frame
from tocsin.gateways.front import Front
from tocsin.gateways.http import HttpApi
from tocsin.gateways.keepalive import WebSocketSettings
from tocsin.gateways.ops import OpsApi
from tocsin.gateways.port import PortSettings
from tocsin.identity import Keys, KeySource, KeysUnusable, TokenCheck, TokenRules
from tocsin.service import Service

log = structlog.get_logger(__name__)

#: A stop takes 30 s at most: what is under way gets the first of them, connections the next.
DRAIN_SECONDS: Final = 5.0
STOP_SECONDS: Final = 18.0
#: sockaddr_un.sun_path holds 108 bytes, the last one is zero (unix(7)).
MAX_SOCKET_PATH: Final = 107


class StartError(Exception):
    """What a person must mend before the service can start, in a sentence."""


class StoreFailed(StartError):
    """The service ended because its store can't be trusted any more; what was acknowledged is in the folder."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of `tocsin serve`; times in milliseconds, 0: no limit. What each says stands at its flag."""

    data: Path = Path("data")
    host: str = "127.0.0.1"
    port: int = 8080
    ops_port: int = 9090
    base_path: str = "/dvl"
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    jwks_url: str | None = None
    user_claim: str = "sub"
    scope_prefix: str = ""
    allowed_origin: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    retention: int = 30 * 86_400_000
    restored: bool = False
    publish_rate: float = 100
    publish_burst: float = 500
    connections_per_user: int = 100
    connections_per_address: int = 1_000
    chats_per_connection: int = 300
    claim_capacity: int = 2_000_000
    idle_limit: int = 0
    connection_life: int = 0
    failpoints: str = ""
    log_format: Literal["text", "json"] = "text"
    examples: bool = False


def run(settings: Settings) -> None:
    """`serve` on uvloop, until the process is told to stop. Raises StartError."""
    gc.set_threshold(50_000, 50, 100)  # what is made for a message is not made in cycles; a collection would stop all
    sys.setswitchinterval(0.0001)  # the writer's thread must not wait 5 ms for each turn of the interpreter's lock
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings) -> None:
    logs.configure(settings.log_format)
    clock = SystemClock()
    if len(os.fsencode(settings.data.absolute() / "admin.sock")) > MAX_SOCKET_PATH:
        raise StartError(f"The data folder's path is too long: with /admin.sock it may have {MAX_SOCKET_PATH} bytes.")
    try:
        engine = EmbeddedEngine(
            EmbeddedSettings(
                data=settings.data,
                restored=settings.restored,
                retention=settings.retention,
                publish_rate=settings.publish_rate,
                publish_burst=settings.publish_burst,
                connections_per_user=settings.connections_per_user,
                chats_per_connection=settings.chats_per_connection,
                claim_capacity=settings.claim_capacity,
            ),
            frame=text_frame,
            clock=clock,
            failpoints=Failpoints(settings.failpoints),
        )
    except (FolderError, ValueError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"{settings.data} can't be used: {error.strerror or error}.") from error
    try:
        await _serve_on(engine, settings, clock)
    finally:
        await engine.stop()


async def _serve_on(engine: EmbeddedEngine, settings: Settings, clock: SystemClock) -> None:
    try:
        files = FileKeys(settings.data / "keys")
        tokens = TokenCheck(await Keys.open(_key_source(settings, files), _report, clock.now()), _rules(settings))
    except KeysUnusable as error:
        raise StartError(str(error)) from error
    service = Service(engine.protocols, tokens, chats_per_connection=settings.chats_per_connection)
    origins = frozenset(settings.allowed_origin)
    conversations = Conversations(service, engine.hub, new_id=new_id, allowed_origins=origins)
    api = HttpApi(
        service,
        base_path=settings.base_path,
        cursors=Cursors(files.cursor_secret),
        allowed_origins=origins,
        new_id=new_id,
    )

    def count_refusal(code: str) -> None:
        engine.metrics.count("refusals", label=code)

    front = Front(
        api,
        conversations,
        new_id=new_id,
        settings=PortSettings(
            base_path=settings.base_path,
            trusted_proxies=settings.trusted_proxy,
            connections_per_address=settings.connections_per_address,
            websocket=WebSocketSettings(
                idle_limit=settings.idle_limit / 1000, connection_life=settings.connection_life / 1000
            ),
        ),
        refused=count_refusal,
    )
    engine.start()
    service.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reasons: list[str] = ["starting"]
    fronts = [front]
    try:
        host = _in_url(settings.host)
        with _listening(f"{host}:{settings.port}", "--port (TOCSIN_PORT) or --host (TOCSIN_HOST)"):
            port = await front.start(settings.host, settings.port)
        url = f"http://{host}:{port}{settings.base_path}"
        admin = Front(AdminApi(service, api, url=url, new_id=new_id), new_id=new_id, refused=count_refusal)
        fronts.append(admin)
        socket = settings.data / "admin.sock"
        with _listening(str(socket), "--data (TOCSIN_DATA)"):
            await admin.start_unix(socket)
        if settings.ops_port:
            ops = Front(
                OpsApi(engine.protocols, ready=lambda: reasons, expose=engine.metrics.expose, new_id=new_id),
                new_id=new_id,
            )
            fronts.append(ops)
            with _listening(f"127.0.0.1:{settings.ops_port}", "--ops-port (TOCSIN_OPS_PORT; 0: no health and metrics)"):
                await ops.start("127.0.0.1", settings.ops_port)
        reasons.clear()
        if settings.host not in ("127.0.0.1", "::1", "localhost"):
            log.warning("the service listens beyond this machine, without TLS; put a proxy that ends TLS before it")
        print(f"listening on {url}", flush=True)  # noqa: T201 - the line that scripts wait for
        if settings.examples:
            from tocsin.cli_examples import print_examples

            await print_examples(service, files, url)
        whole = asyncio.ensure_future(engine.check_whole())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopped, engine.fatal), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        whole.cancel()
        if engine.fatal.done():
            reasons.append("the store failed")
            raise StoreFailed(f"The store can't go on: {engine.fatal.exception()}")
        reasons.append("stopping")
    finally:
        with contextlib.suppress(TimeoutError):  # a slow reader's replay ends with its connection
            async with asyncio.timeout(DRAIN_SECONDS):
                await conversations.drain(front.keepalive)
                await engine.bus.drain()
        engine.hub.flush()
        for listening in fronts:
            await listening.stop(STOP_SECONDS / len(fronts))
        await service.stop()
    log.info("stopped")


@contextlib.contextmanager
def _listening(where: str, setting: str) -> Iterator[None]:
    """Around what listens on `where`: what can't is told with the setting that moves it."""
    try:
        yield
    except OSError as error:
        raise StartError(
            f"The service can't listen on {where}: {error.strerror or error}. Change {setting}."
        ) from error


def _key_source(settings: Settings, files: FileKeys) -> KeySource:
    if settings.issuer is None:
        return files
    return OidcKeys(issuer=settings.issuer, jwks_url=settings.jwks_url)


def _rules(settings: Settings) -> TokenRules:
    if settings.issuer is None:
        return TokenRules(issuer=ISSUER, audiences=frozenset({ISSUER}))
    return TokenRules(
        issuer=settings.issuer,
        audiences=frozenset(settings.audience),
        user_claims=(settings.user_claim,),
        scope_prefix=settings.scope_prefix,
    )


def _report(sentence: str) -> None:
    log.warning("keys", reason=sentence)


_random: Final = Random(secrets.randbits(256))  # noqa: S311 - no secret hangs on it


def new_id() -> str:
    """For requests and connections: nothing depends on its being a secret, and the kernel is slow to ask."""
    return f"{_random.getrandbits(96):024x}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
