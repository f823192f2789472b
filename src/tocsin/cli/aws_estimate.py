"""`tocsin estimate-cost`: what a month on AWS costs, from what was counted.

flags, or CloudWatch's answer (`aws cloudwatch get-metric-data`) -> counters -> aws_costs -> a line for each unit
ours, or a file -> the price list -> aws_costs
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import msgspec
import typer

from tocsin.cli import values
from tocsin.cli.aws_costs import COUNTERS, PRICES, Counter, PriceList, estimate
from tocsin.cli.failure import Failure
from tocsin.cli.printing import AsJson, print_columns, print_json


class _Result(msgspec.Struct, rename="pascal"):
    id: str
    values: list[float]


class _Answer(msgspec.Struct, rename={"results": "MetricDataResults"}):
    results: list[_Result]


_answer: Final = msgspec.json.Decoder(_Answer)
_prices: Final = msgspec.json.Decoder(PriceList)


def _count(help: str) -> Any:
    return typer.Option(help=help, parser=values.count, metavar="NUMBER", rich_help_panel="What was counted")


Answer = Annotated[
    Path | None, typer.Argument(help="CloudWatch's answer, with a counter's name as each query's Id.", metavar="[FILE]")
]
Prices = Annotated[
    Path | None,
    typer.Option("--prices", help="A price list in the place of ours, as --json prints it.", metavar="FILE"),
]
Days = Annotated[float, typer.Option(help="In so many days.", parser=values.rate, metavar="NUMBER")]


def estimate_cost(
    answer: Answer = None,
    p2p: Annotated[float | None, _count("Numbered messages over WebSockets.")] = None,
    a2p: Annotated[float | None, _count("Numbered messages over HTTP.")] = None,
    standard: Annotated[float | None, _count("Unnumbered messages.")] = None,
    with_id: Annotated[float | None, _count("Of all these, those with an id of the publisher's.")] = None,
    deliveries: Annotated[float | None, _count("Messages, times who listened.")] = None,
    connects: Annotated[float | None, _count("Connections that were opened.")] = None,
    connection_hours: Annotated[float | None, _count("Hours of all connections together.")] = None,
    pages: Annotated[float | None, _count("Pages of history.")] = None,
    stored_gb: Annotated[float | None, _count("Gigabytes in the tables; no rate.")] = None,
    days: Days = 30.0,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Say what a month on AWS costs, from what was counted. A price list of AWS's is in it, which may be old."""
    priced = PRICES if prices is None else read_prices(prices)
    counters = {} if answer is None else read_answer(answer)
    told = (p2p, a2p, standard, with_id, deliveries, connects, connection_hours, pages, stored_gb)
    counters |= {name: count for name, count in zip(COUNTERS, told, strict=True) if count is not None}
    lines = estimate(counters, days=days, prices=priced)
    total = sum(line.usd for line in lines)
    if as_json:
        print_json({"usd": round(total, 2), "lines": lines, "prices": priced})
        return
    rows = [(line.unit, f"{line.amount:,.0f}", f"{line.usd:,.2f}") for line in lines]
    print_columns(("UNIT", "A MONTH", "USD"), [*rows, ("total", "", f"{total:,.2f}")])
    whose = "as AWS's pages were quoted in" if prices is None else f"of {prices}, as of"
    typer.echo(f"Prices of {priced.region} {whose} {priced.as_of}, without what is free: check them.")


def read_answer(path: Path) -> dict[Counter, float]:
    try:
        found = _answer.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise Failure(f"{path} is no answer of get-metric-data: {error}") from None
    unknown = sorted({one.id for one in found.results} - set(COUNTERS))
    if unknown:
        raise Failure(f"{path}: {', '.join(unknown)} is no counter; there are {', '.join(COUNTERS)}.")
    sums: dict[str, float] = {}
    for one in found.results:
        sums[one.id] = sums.get(one.id, 0.0) + sum(one.values)
    return dict(cast(Mapping[Counter, float], sums))


def read_prices(path: Path) -> PriceList:
    try:
        return _prices.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise Failure(f"{path} is no price list: {error}") from None
