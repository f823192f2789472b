"""`tocsin aws restore` and `resume`: the tables as they were at one second, under new names; then served from.

    restore -> deploy with the new names (docs/aws-deployment-checklist.md) -> resume

Rules:
- between the two the queues' functions stand still, and what is published waits in the queues;
- they are paused once AWS has begun the copies: a restore that it refuses stops nobody;
- whoever leaves them paused without having ended is told so, and which command starts them.
"""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tocsin.cli import values
from tocsin.cli.aws_account import Account, Prefix, Region, Tables
from tocsin.cli.printing import AsJson, print_json
from tocsin.message import parse_rfc3339

if TYPE_CHECKING:
    from tocsin.engines.aws.restoration import Repaired, Restoration

_PAUSED: Final = (
    "The mappings of the queues are paused, or some of them. Repeat the command to go on, or give it up with "
    "`tocsin aws resume`: it starts them again, and ends all connections."
)

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


def restore(
    to: To,
    into: Into,
    prefix: Prefix = "",
    region: Region = None,
    tables: Tables = None,
    as_json: AsJson = False,
) -> None:
    """Copy the tables as they were at that second, and make the copies fit to be served from."""
    if into == (prefix if tables is None else tables):
        raise typer.BadParameter("the tables that are served from have this name.", param_hint="--into")
    with Account(prefix, region, tables) as account:
        from tocsin.clock import SystemClock
        from tocsin.engines.aws.restoration import Mappings, Restoration

        clock = SystemClock()
        restoration = Restoration(account.engine.dynamodb, account.tables_prefix, into, clock)

        account.run(restoration.copy(parse_rfc3339(to)))  # what AWS refuses it refuses here
        try:
            paused = account.run(Mappings(account.functions(), prefix, clock).switch(on=False))
            repaired = account.run(_make_fit(restoration))
        except BaseException:
            typer.echo(_PAUSED, err=True)
            raise
    if as_json:
        print_json({"paused": paused, "repaired": repaired})
        return
    typer.echo(f"{paused} mappings are paused; the new tables begin with {into}")
    typer.echo(f"{repaired.chats} chats, {repaired.raised} counters raised, {repaired.filled} numbers filled")
    typer.echo(f"epoch {repaired.epoch}")
    typer.echo(f"Now deploy with --tables-prefix {into}, then: tocsin aws resume --endpoint …")


async def _make_fit(restoration: "Restoration") -> "Repaired":
    await restoration.ready()
    return await restoration.repair()


def resume(
    endpoint: Endpoint,
    prefix: Prefix = "",
    region: Region = None,
    tables: Tables = None,
    as_json: AsJson = False,
) -> None:
    """After the deployment: end the connections that the former tables know, and let the queues' functions go on.

    --tables-prefix is that of the former tables, if those were restored ones, too.
    """
    with Account(prefix, region, tables, endpoint=endpoint) as account:
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
