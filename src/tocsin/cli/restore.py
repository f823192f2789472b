"""`tocsin restore`: marks a folder that was copied back, so that clients that know more than the copy are told.

Rule: it draws the epoch that `tocsin serve --restored` would draw, and changes nothing else. A folder that a service
holds, or that is none, is refused.
"""

from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.failure import Failure, server_packages
from tocsin.cli.printing import AsJson, print_json


def restore(
    data: Annotated[
        Path,
        typer.Option(help="The folder that was copied back.", envvar="TOCSIN_DATA", show_envvar=True, metavar="DIR"),
    ] = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Begin a new epoch on a folder that was copied back, and print it; then start the service as ever."""
    if not (data / "tocsin.db").exists():
        raise Failure(f"{data} is not the folder of a service; name it with --data.")
    with server_packages():
        from tocsin.engines.embedded.data_folder import DataFolder, FolderError
    try:
        folder = DataFolder(data, restored=True)
    except FolderError as error:
        raise Failure(str(error)) from error
    folder.close()
    if as_json:
        print_json({"epoch": folder.epoch})
    else:
        typer.echo(folder.epoch)
