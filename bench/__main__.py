"""`python -m bench SCENARIO … --server NAME …`: runs, prints a table for each scenario and one of all, writes JSON.

Several servers take turns within a scenario, so that they share the machine's good and bad minutes.
"""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.generator import Generator, compiled
from bench.issuer import Issuer
from bench.machine import describe
from bench.scenarios import REACH, SCENARIOS, Figure, Ground, ceiling
from bench.servers import NAMES

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
Results = dict[str, list[Figure]]  # server -> its figures


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    known = ["all", "ceiling", *SCENARIOS]
    parser.add_argument(
        "scenarios", nargs="*", default=["all"], choices=known, metavar="SCENARIO", help=", ".join(known)
    )
    parser.add_argument(
        "--server", action="append", choices=NAMES, help="may be repeated; the first is the one compared"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--rates", default="", help="publishes a second, with commas, instead of a scenario's own")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--data-root", type=Path, default=BUILD, help="where the fresh folders go; on a disk")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    return parser.parse_args(words)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def reached(figure: Figure) -> bool | None:
    if figure.scenario not in REACH:
        return None
    sign, goal = REACH[figure.scenario]
    return not figure.faults and (figure.value >= goal if sign == "≥" else figure.value <= goal)


def best(figures: list[Figure]) -> list[Figure]:
    """For each scenario the highest step that was sound; if none was, the last."""
    found: dict[str, Figure] = {}
    for figure in figures:
        kept = found.get(figure.scenario)
        if kept is None or kept.faults or (not figure.faults and figure.value > kept.value):
            found[figure.scenario] = figure
    return list(found.values())


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


def summary_table(results: Results) -> Table:
    table = Table("scenario", title="best sound steps", title_justify="left")
    table.add_column("to reach", justify="right")
    for server in results:
        table.add_column(server, justify="right")
        table.add_column("p99 ms", justify="right")
    for peer in list(results)[1:]:
        table.add_column(f"to {peer}", justify="right")
    table.add_column("reached")
    columns = [{figure.scenario: figure for figure in best(mine)} for mine in results.values()]
    for scenario, first in columns[0].items():
        sign, goal = REACH.get(scenario, ("", 0))
        cells = [scenario, f"{sign} {number(goal)}" if sign else ""]
        row = [column[scenario] for column in columns]
        for f in row:
            cells += [f"{number(f.value)} {f.unit}{' (faults)' if f.faults else ''}", number(f.p99)]
        for other in row[1:]:
            ratio = other.value / first.value if sign == "≤" else first.value / other.value
            cells.append(f"{ratio:.1f} x")
        table.add_row(*cells, {True: "yes", False: "no", None: ""}[reached(first)])
    return table


def main(words: list[str] | None = None) -> int:
    options, console = parse(words), Console(width=None if sys.stdout.isatty() else 160)
    servers = options.server or ["tocsin"]
    names = list(SCENARIOS) if "all" in options.scenarios else options.scenarios
    if {options.server_core, options.load_core} - os.sched_getaffinity(0):
        raise SystemExit("there are not enough cores: choose with --server-core and --load-core")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    program = compiled(BUILD)
    os.sched_setaffinity(0, {options.load_core})  # the issuer and this program stay off the server's core
    options.data_root.mkdir(parents=True, exist_ok=True)
    machine = describe(options.data_root)
    if machine["file_system"] == "tmpfs":
        raise SystemExit(f"{options.data_root} is in memory: nothing durable can be measured there (--data-root)")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    results: Results = {server: [] for server in servers}
    issuer = Issuer()
    try:
        for name in names:
            mine: Results = {}
            for server in ["generator"] if name == "ceiling" else servers:
                folder = Path(tempfile.mkdtemp(prefix=f"{server}-", dir=options.data_root))
                ground = Ground(
                    server_name=server,
                    issuer=issuer,
                    generator=Generator(program, options.load_core),
                    folder=folder,
                    server_core=options.server_core,
                    quick=options.quick,
                    rates=tuple(int(rate) for rate in options.rates.split(",") if rate),
                )
                mine[server] = (ceiling if name == "ceiling" else SCENARIOS[name])(ground)
                results.setdefault(server, []).extend(mine[server])
                shutil.rmtree(folder)
            console.print(steps_table(name, mine))
    finally:
        issuer.close()
    results = {server: figures for server, figures in results.items() if figures}
    if len(names) > 1:
        console.print(summary_table(results))
    if options.json:
        figures = {server: [dataclasses.asdict(f) for f in mine] for server, mine in results.items()}
        options.json.write_text(json.dumps({"machine": machine, "quick": options.quick, "servers": figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
