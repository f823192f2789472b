"""`tocsin aws restore` and `resume`: the tables as they were at one second, under new names; then served from.

    restore -> deploy with the new names (docs/aws-deployment-checklist.md) -> resume

Rule: between the two the queues' functions stand still, and what is published waits in the queues.
"""

from typing import Annotated, Any

import typer

from tocsin.cli import values
from tocsin.cli.aws_account import Account, Prefix, Region
from tocsin.cli.printing import AsJson, print_json
from tocsin.message import parse_rfc3339

To = Annotated[
    str, typer.Option("--to", help="The second, as 2026-01-31T09:00:00Z.", parser=values.moment, metavar="TIME")
]
Into = Annotated[
    str, typer.Option(help="What the new tables' names begin with.", parser=values.tables_prefix, metavar="PREFIX")
]
Endpoint = Annotated[
    str,
    typer.Option(help="The WebSocket stage's own address, https://….", parser=values.endpoint, metavar="URL"),
]


def restore(to: To, into: Into, prefix: Prefix = "", region: Region = None, as_json: AsJson = False) -> None:
    """Copy the tables as they were at that second, and make the copies fit to be served from."""
    if into == prefix:
        raise typer.BadParameter("the tables that are served from have this name.", param_hint="--into")
    with Account(prefix, region) as account:
        from tocsin.clock import SystemClock
        from tocsin.engines.aws.restoration import Mappings, Restoration

        clock = SystemClock()
        restoration = Restoration(account.engine.dynamodb, prefix, into, clock)

        async def run() -> tuple[int, Any]:
            paused = await Mappings(account.functions(), prefix, clock).switch(on=False)
            await restoration.copy(parse_rfc3339(to))
            await restoration.ready()
            return paused, await restoration.repair()

        paused, repaired = account.run(run())
    if as_json:
        print_json({"paused": paused, "repaired": repaired})
        return
    typer.echo(f"{paused} mappings are paused; the new tables begin with {into}")
    typer.echo(f"{repaired.chats} chats, {repaired.raised} counters raised, {repaired.filled} numbers filled")
    typer.echo(f"epoch {repaired.epoch}")
    typer.echo(f"Now deploy with --tables-prefix {into}, then: tocsin aws resume --endpoint …")


def resume(endpoint: Endpoint, prefix: Prefix = "", region: Region = None, as_json: AsJson = False) -> None:
    """After the deployment: end the connections that the former tables know, and let the queues' functions go on."""
    with Account(prefix, region, endpoint=endpoint) as account:
        from tocsin.clock import SystemClock
        from tocsin.engines.aws.restoration import Mappings, end_connections

        engine = account.engine

        async def run() -> tuple[int, int]:
            ended = await end_connections(engine.dynamodb, engine.api, account.settings.connection_table)
            return ended, await Mappings(account.functions(), prefix, SystemClock()).switch(on=True)

        ended, resumed = account.run(run())
    if as_json:
        print_json({"ended": ended, "resumed": resumed})
    else:
        typer.echo(f"{ended} connections ended; {resumed} mappings go on")
