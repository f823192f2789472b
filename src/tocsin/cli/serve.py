"""`tocsin serve`: every setting, its flag, its variable and what it may be, as one literal table.

flag, else TOCSIN_… variable, else default -> values.py -> profiles.embedded.Settings -> run

Rule: settings are read here, once; what is wrong stops the start with its name, its value and what is allowed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import typer

from tocsin.cli import values
from tocsin.cli.failure import Failure, server_packages

_ADDRESS, _TOKENS, _STORE, _LIMITS, _OPERATION = "Address", "Tokens", "Store", "Limits", "Operation"
_count: Final = values.whole(1, 1_000_000_000)


def _setting(
    name: str, panel: str, parser: Callable[..., object] | None, metavar: str | None, text: str, **more: Any
) -> Any:  # as typer's own Option
    """An option with the variable TOCSIN_`name`; several values in a variable stand with spaces between them."""
    return typer.Option(
        envvar=f"TOCSIN_{name}",
        show_envvar=True,
        parser=parser,
        metavar=metavar,
        help=text,
        rich_help_panel=panel,
        **more,
    )


def serve(
    data: Annotated[
        Path, _setting("DATA", _STORE, None, "DIR", "The folder that holds everything; made if it is missing.")
    ] = Path("data"),
    host: Annotated[
        str,
        _setting(
            "HOST",
            _ADDRESS,
            values.host,
            "HOST",
            "Where to listen. Beyond this machine only behind a proxy that ends TLS.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, _setting("PORT", _ADDRESS, values.port, "PORT", "WebSocket and REST; 0: any free one.")
    ] = 8080,
    ops_port: Annotated[
        int, _setting("OPS_PORT", _ADDRESS, values.port, "PORT", "Health and metrics, on 127.0.0.1 only; 0: off.")
    ] = 9090,
    base_path: Annotated[
        str, _setting("BASE_PATH", _ADDRESS, values.base_path, "PATH", "What all paths begin with.")
    ] = "/dvl",
    allowed_origin: Annotated[
        list[str] | None,
        _setting(
            "ALLOWED_ORIGIN",
            _ADDRESS,
            values.origin,
            "ORIGIN",
            "An origin whose pages may call; may be repeated. Without one: none by REST, any by WebSocket.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        _setting(
            "TRUSTED_PROXY",
            _ADDRESS,
            values.network,
            "CIDR",
            "A network whose X-Forwarded-For is believed; may be repeated.",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        _setting(
            "ISSUER",
            _TOKENS,
            values.trusted_url,
            "URL",
            "An OpenID Connect issuer whose tokens count, instead of `tocsin token`'s.",
        ),
    ] = None,
    audience: Annotated[
        list[str] | None,
        _setting(
            "AUDIENCE",
            _TOKENS,
            values.audience,
            "AUDIENCE",
            "Whom the issuer's tokens must be meant for (aud or client_id); may be repeated.",
        ),
    ] = None,
    jwks_url: Annotated[
        str | None,
        _setting(
            "JWKS_URL",
            _TOKENS,
            values.trusted_url,
            "URL",
            "Where the issuer's keys are; else its discovery document says so.",
        ),
    ] = None,
    user_claim: Annotated[
        str,
        _setting("USER_CLAIM", _TOKENS, values.claim, "CLAIM", "The claim of the issuer's tokens that is the userId."),
    ] = "sub",
    scope_prefix: Annotated[
        str,
        _setting(
            "SCOPE_PREFIX",
            _TOKENS,
            values.prefix,
            "PREFIX",
            "What the issuer's scopes begin with, such as tocsin/; others do not count.",
        ),
    ] = "",
    retention: Annotated[
        int,
        _setting(
            "RETENTION",
            _STORE,
            values.duration,
            "TIME",
            "How long messages can be read: 30d, 12h, 45m, 90s, 500ms.",
        ),
    ] = cast("int", "30d"),  # parsed like what is given, and shown as it stands
    restored: Annotated[
        bool,
        _setting(
            "RESTORED",
            _STORE,
            values.switch,
            None,
            "The folder is a copy that was put back: clients that know more are told.",
        ),
    ] = False,
    publish_rate: Annotated[
        float, _setting("PUBLISH_RATE", _LIMITS, values.rate, "NUMBER", "Publishes a second, for each user and chat.")
    ] = 100,
    publish_burst: Annotated[
        float, _setting("PUBLISH_BURST", _LIMITS, values.rate, "NUMBER", "Publishes at once, for each user and chat.")
    ] = 500,
    connections_per_user: Annotated[
        int, _setting("CONNECTIONS_PER_USER", _LIMITS, _count, "NUMBER", "Connections of one user.")
    ] = 100,
    connections_per_address: Annotated[
        int,
        _setting(
            "CONNECTIONS_PER_ADDRESS", _LIMITS, _count, "NUMBER", "Connections from one address; of IPv6, from one /64."
        ),
    ] = 1_000,
    chats_per_connection: Annotated[
        int, _setting("CHATS_PER_CONNECTION", _LIMITS, _count, "NUMBER", "Chats that one connection may listen to.")
    ] = 300,
    idle_limit: Annotated[
        int,
        _setting(
            "IDLE_LIMIT",
            _LIMITS,
            values.time_limit,
            "TIME",
            "How long a connection may stand without a message either way: 10m; 0: for ever.",
        ),
    ] = 0,
    connection_life: Annotated[
        int,
        _setting(
            "CONNECTION_LIFE",
            _LIMITS,
            values.time_limit,
            "TIME",
            "How long a connection may stand at all: 2h; 0: for ever.",
        ),
    ] = 0,
    claim_capacity: Annotated[
        int,
        _setting(
            "CLAIM_CAPACITY",
            _LIMITS,
            _count,
            "NUMBER",
            "Ids of publishes that are remembered; beyond them, publishes with an id are refused.",
        ),
    ] = 2_000_000,
    log_format: Annotated[
        str, _setting("LOG_FORMAT", _OPERATION, values.log_format, "text|json", "How the log is written.")
    ] = "text",
    examples: Annotated[
        bool, _setting("EXAMPLES", _OPERATION, values.switch, None, "Make a chat to try, and print commands for it.")
    ] = False,
    failpoints: Annotated[
        str,
        _setting(
            "FAILPOINTS",
            _OPERATION,
            values.failpoints,
            "RULES",
            "Where to fail on purpose, for tests: name=kill|raise|stall:ms[@nth][~TEXT],…",
            hidden=True,
        ),
    ] = "",
) -> None:
    """Serve one data folder on one port, until told to stop (SIGTERM or Ctrl-C)."""
    if issuer is None:
        _require_issuer({"--audience": audience, "--jwks-url": jwks_url, "--scope-prefix": scope_prefix})
        _require_issuer({"--user-claim": user_claim != "sub"})
    elif not audience:
        raise typer.BadParameter("it is needed with --issuer, or nobody's tokens would count.", param_hint="--audience")
    elif examples:
        raise typer.BadParameter("it makes tokens, which is --issuer's to do.", param_hint="--examples")
    with server_packages():
        from tocsin.profiles.embedded import Settings, StartError, run
    settings = Settings(
        data=data,
        host=host,
        port=port,
        ops_port=ops_port,
        base_path=base_path,
        issuer=issuer,
        audience=tuple(audience or ()),
        jwks_url=jwks_url,
        user_claim=user_claim,
        scope_prefix=scope_prefix,
        allowed_origin=tuple(allowed_origin or ()),
        trusted_proxy=tuple(trusted_proxy or ()),
        retention=retention,
        restored=restored,
        publish_rate=publish_rate,
        publish_burst=publish_burst,
        connections_per_user=connections_per_user,
        connections_per_address=connections_per_address,
        chats_per_connection=chats_per_connection,
        idle_limit=idle_limit,
        connection_life=connection_life,
        claim_capacity=claim_capacity,
        failpoints=failpoints,
        log_format=cast(Literal["text", "json"], log_format),
        examples=examples,
    )
    try:
        run(settings)
    except StartError as error:
        raise Failure(str(error)) from error


def _require_issuer(given: dict[str, object]) -> None:
    for flag, value in given.items():
        if value:
            raise typer.BadParameter(
                "it says something of an outside issuer's tokens: name it with --issuer.", param_hint=flag
            )
