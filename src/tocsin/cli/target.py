"""Which service a command means: the options --url, --token-file and --data, and the `Client` that they name.

--url, else --data, else TOCSIN_URL, else TOCSIN_DATA, else ./data
a folder -> AdminClient if a service holds it (its admin.sock answers), else FolderClient
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from tocsin.cli import values
from tocsin.cli.client import Administration, Client
from tocsin.cli.credentials import Token
from tocsin.cli.failure import Failure, server_packages
from tocsin.cli.rest_client import AdminClient, RestClient, UnixConnection, UrlClient, reason

T = TypeVar("T")

_PANEL: Final = "Which service"

Url = Annotated[
    str | None,
    typer.Option(
        help="The service's address, such as http://127.0.0.1:8080/dvl. Variable: TOCSIN_URL.",
        parser=values.service_url,
        metavar="URL",
        rich_help_panel=_PANEL,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="A file with the token for --url; else the variable TOCSIN_TOKEN holds it.",
        envvar="TOCSIN_TOKEN_FILE",
        show_envvar=True,
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Or a service's folder on this machine, whether it runs or not; no token is needed. "
        "Variable: TOCSIN_DATA. Default: data.",
        metavar="DIR",
        rich_help_panel=_PANEL,
    ),
]


def running(url: str | None, token_file: Path | None, data: Path | None) -> RestClient:
    """A service that runs, or `Failure`."""
    if (address := _address(url, data)) is not None:
        return UrlClient(address, Token(token_file))
    folder = _folder(data)
    client = _admin(folder)
    if client is None:
        raise Failure(f"This needs a running service, and none answers in {folder}: start it, or name one with --url.")
    return client


@contextmanager
def client_of(url: str | None, token_file: Path | None, data: Path | None) -> Iterator[Client]:
    """A service that runs, or a folder itself."""
    if (address := _address(url, data)) is not None:
        yield UrlClient(address, Token(token_file))
    else:
        with administration_of(data) as client:
            yield client


@contextmanager
def administration_of(data: Path | None) -> Iterator[Administration]:
    folder = _folder(data)
    client = _admin(folder)
    if client is not None:
        yield client
        return
    if not (folder / "tocsin.db").exists():
        raise Failure(f"{folder} is not the folder of a service; name it with --data, or a running one with --url.")
    with server_packages():
        from tocsin.cli.folder_client import FolderClient
    with FolderClient(folder, retention=_variable("TOCSIN_RETENTION", values.duration)) as opened:
        yield opened


def _address(url: str | None, data: Path | None) -> str | None:
    """What a person says counts before what a variable says."""
    if url is not None and data is not None:
        raise typer.BadParameter("it cannot be given together with --data.", param_hint="--url")
    return _variable("TOCSIN_URL", values.service_url) if url is None and data is None else url


def _variable(name: str, parse: Callable[[str], T]) -> T | None:
    try:
        return parse(value) if (value := os.environ.get(name)) else None
    except typer.BadParameter as error:
        error.param_hint = name
        raise


def _folder(data: Path | None) -> Path:
    return data or Path(os.environ.get("TOCSIN_DATA") or "data")


def _admin(folder: Path) -> AdminClient | None:
    """None where nobody listens: the socket file of a service that was killed may lie there."""
    path = folder / "admin.sock"
    connection = UnixConnection(path)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(f"{path}: {reason(error)}.") from error
    finally:
        connection.close()
    return AdminClient(path)
