"""`tocsin serve`: every setting, its flag, its variable and what it may be, as one literal table.

flag, else TOCSIN_… variable, else default -> values.py -> profiles.embedded.Settings -> run

Rule: settings are read here, once; what is wrong stops the start with its name, its value and what is allowed.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from tocsin.cli import values
from tocsin.cli.failure import Failure, server_packages

_ADDRESS, _TOKENS, _STORE, _LIMITS, _OPERATION = "Address", "Tokens", "Store", "Limits", "Operation"
_MANY = 1_000_000_000


def _setting(name: str, panel: str, text: str, **more: Any) -> Any:  # typer's own Option takes and gives Any
    """An option with a TOCSIN_… variable; several values in a variable stand with spaces between them."""
    return typer.Option(envvar=f"TOCSIN_{name}", show_envvar=True, help=text, rich_help_panel=panel, **more)


def serve(
    data: Annotated[
        Path, _setting("DATA", _STORE, "The folder that holds everything; made if it is missing.", metavar="DIR")
    ] = Path("data"),
    host: Annotated[
        str,
        _setting(
            "HOST",
            _ADDRESS,
            "Where to listen. Beyond this machine only behind a proxy that ends TLS.",
            parser=values.host,
            metavar="HOST",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, _setting("PORT", _ADDRESS, "WebSocket and REST; 0: any free one.", parser=values.port, metavar="PORT")
    ] = 8080,
    ops_port: Annotated[
        int,
        _setting(
            "OPS_PORT",
            _ADDRESS,
            "Health and metrics, on 127.0.0.1 only; 0: off.",
            parser=values.port,
            metavar="PORT",
        ),
    ] = 9090,
    base_path: Annotated[
        str, _setting("BASE_PATH", _ADDRESS, "What all paths begin with.", parser=values.base_path, metavar="PATH")
    ] = "/dvl",
    allowed_origin: Annotated[
        list[str] | None,
        _setting(
            "ALLOWED_ORIGIN",
            _ADDRESS,
            "An origin whose pages may call; may be repeated. REST: none without it. WebSocket: any without it.",
            parser=values.origin,
            metavar="ORIGIN",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        _setting(
            "TRUSTED_PROXY",
            _ADDRESS,
            "A network whose X-Forwarded-For is believed; may be repeated.",
            parser=values.network,
            metavar="CIDR",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        _setting(
            "ISSUER",
            _TOKENS,
            "An OpenID Connect issuer whose tokens count, instead of `tocsin token`'s.",
            parser=values.trusted_url,
            metavar="URL",
        ),
    ] = None,
    audience: Annotated[
        list[str] | None,
        _setting(
            "AUDIENCE",
            _TOKENS,
            "What the issuer's tokens must be meant for (aud or client_id); may be repeated.",
            parser=values.audience,
            metavar="AUDIENCE",
        ),
    ] = None,
    jwks_url: Annotated[
        str | None,
        _setting(
            "JWKS_URL",
            _TOKENS,
            "Where the issuer's keys are, instead of asking its discovery document.",
            parser=values.trusted_url,
            metavar="URL",
        ),
    ] = None,
    user_claim: Annotated[
        str,
        _setting(
            "USER_CLAIM",
            _TOKENS,
            "The claim of the issuer's tokens that is the userId.",
            parser=values.claim,
            metavar="CLAIM",
        ),
    ] = "sub",
    scope_prefix: Annotated[
        str,
        _setting(
            "SCOPE_PREFIX",
            _TOKENS,
            "What the issuer's scopes begin with, such as tocsin/; others do not count.",
            parser=values.prefix,
            metavar="PREFIX",
        ),
    ] = "",
    retention: Annotated[
        int,
        _setting(
            "RETENTION",
            _STORE,
            "How long messages can be read.",
            parser=values.duration,
            metavar="TIME",
            show_default="30d",
        ),
    ] = 30 * 86_400_000,
    restored: Annotated[
        bool,
        _setting(
            "RESTORED", _STORE, "The folder is a copy that was put back: clients that know more are told.", is_flag=True
        ),
    ] = False,
    publish_rate: Annotated[
        float,
        _setting(
            "PUBLISH_RATE",
            _LIMITS,
            "Publishes a second, for each user and chat.",
            parser=values.rate,
            metavar="NUMBER",
        ),
    ] = 100,
    publish_burst: Annotated[
        float,
        _setting(
            "PUBLISH_BURST",
            _LIMITS,
            "Publishes at once, for each user and chat.",
            parser=values.rate,
            metavar="NUMBER",
        ),
    ] = 500,
    connections_per_user: Annotated[
        int,
        _setting(
            "CONNECTIONS_PER_USER",
            _LIMITS,
            "Connections of one user.",
            parser=values.whole(1, _MANY),
            metavar="NUMBER",
        ),
    ] = 100,
    connections_per_address: Annotated[
        int,
        _setting(
            "CONNECTIONS_PER_ADDRESS",
            _LIMITS,
            "Connections from one address.",
            parser=values.whole(1, _MANY),
            metavar="NUMBER",
        ),
    ] = 1_000,
    chats_per_connection: Annotated[
        int,
        _setting(
            "CHATS_PER_CONNECTION",
            _LIMITS,
            "Chats that one connection may listen to.",
            parser=values.whole(1, _MANY),
            metavar="NUMBER",
        ),
    ] = 300,
    claim_capacity: Annotated[
        int,
        _setting(
            "CLAIM_CAPACITY",
            _LIMITS,
            "Ids of publishes that are remembered; beyond them a publish with an id is refused.",
            parser=values.whole(1, _MANY),
            metavar="NUMBER",
        ),
    ] = 2_000_000,
    log_format: Annotated[
        str,
        _setting("LOG_FORMAT", _OPERATION, "How the log is written.", parser=values.log_format, metavar="text|json"),
    ] = "text",
    examples: Annotated[
        bool, _setting("EXAMPLES", _OPERATION, "Make a chat to try, and print commands for it.", is_flag=True)
    ] = False,
    failpoints: Annotated[
        str,
        _setting(
            "FAILPOINTS",
            _OPERATION,
            "Where to fail on purpose, for tests: name=kill|raise|stall:ms[@nth][~TEXT],…",
            parser=values.failpoints,
            metavar="RULES",
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
            raise typer.BadParameter("it says something of an outside issuer's tokens: name it with --issuer.", param_hint=flag)
