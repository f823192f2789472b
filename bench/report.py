"""The tables: every step of a scenario; the best sound step of each beside what is to be reached and the peers."""

from rich.table import Table

from bench.scenarios import REACH, Figure

Results = dict[str, list[Figure]]  # server -> its figures


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def reached(figure: Figure) -> bool:
    sign, goal = REACH[figure.scenario]
    return figure.counts and (figure.value >= goal if sign == "≥" else figure.value <= goal)


def best(figures: list[Figure]) -> list[Figure]:
    """For each scenario the highest step that counts; if none does, the last."""
    found: dict[str, Figure] = {}
    for figure in figures:
        kept = found.get(figure.scenario)
        if kept is None or not kept.counts or (figure.counts and figure.value > kept.value):
            found[figure.scenario] = figure
    return list(found.values())


def rate(figure: Figure) -> str:
    return f"{number(figure.value)} {figure.unit}{' (faults)' if figure.faults else ''}"


def ratio(first: Figure, other: Figure) -> str:
    """How many times better the first is: rates are better high, times and sizes low."""
    better, worse = (first.value, other.value) if first.unit.endswith("/s") else (other.value, first.value)
    return f"{better / worse:.1f} x" if worse else "-"


def steps_table(scenario: str, results: Results) -> Table:
    table = Table("server", "scenario", "step", title=scenario, title_justify="left")
    for name in ("figure", "p50 ms", "p99 ms", "p99.9 ms", "CPU", "MiB"):
        table.add_column(name, justify="right")
    table.add_column("faults")
    for server, figures in results.items():
        for f in figures:
            cells = (
                number(f.p50),
                number(f.p99),
                number(f.p999),
                f"{f.cpu:.0%}",
                f"{f.memory:,.0f}",
                ", ".join(f.faults),
            )
            table.add_row(server, f.scenario, f.step, f"{number(f.value)} {f.unit}", *cells)
    return table


def summary_table(results: Results, quick: bool) -> Table:
    title = "small sizes: it runs, nothing is measured" if quick else "best sound steps"
    table = Table("scenario", title=title, title_justify="left")
    table.add_column("to reach", justify="right")
    for server in results:
        table.add_column(server, justify="right")
        table.add_column("p99 ms", justify="right")
    for peer in list(results)[1:]:
        table.add_column(f"to {peer}", justify="right")
    table.add_column("reached")
    columns = [{figure.scenario: figure for figure in best(mine)} for mine in results.values()]
    for scenario, first in columns[0].items():
        sign, goal = ("", 0.0) if quick else REACH.get(scenario, ("", 0.0))
        cells = [scenario, f"{sign} {number(goal)}" if sign else ""]
        row = [column.get(scenario) for column in columns]
        for figure in row:
            cells += [rate(figure), number(figure.p99)] if figure else ["-", "-"]
        for other in row[1:]:
            cells.append(ratio(first, other) if other else "-")
        table.add_row(*cells, "" if not sign else "yes" if reached(first) else "no")
    return table
