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

from bench.generator import Generator, compiled
from bench.issuer import Issuer
from bench.machine import describe
from bench.report import Results, steps_table, summary_table
from bench.scenarios import SCENARIOS, Ground, ceiling
from bench.servers import NAMES, Failure, Launch

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    known = ["all", "ceiling", *SCENARIOS]
    parser.add_argument(
        "scenarios", nargs="*", default=["all"], choices=known, metavar="SCENARIO", help=", ".join(known)
    )
    parser.add_argument(
        "--server", action="append", choices=NAMES, help="may be repeated; the first is the one compared"
    )
    parser.add_argument("--binary", type=Path, help="Centrifugo's")
    parser.add_argument("--postgres", default="", help="a DSN: Centrifugo keeps its messages there, not in memory")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, measures nothing")
    parser.add_argument("--rates", default="", help="publishes a second, with commas, instead of a scenario's own")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--data-root", type=Path, default=BUILD, help="where the fresh folders go; on a disk")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options, console = parse(words), Console(width=None if sys.stdout.isatty() else 160)
    servers = options.server or ["tocsin"]
    names = list(SCENARIOS) if "all" in options.scenarios else options.scenarios
    if "centrifugo" in servers and options.binary is None:
        raise SystemExit("--server centrifugo needs --binary PATH")
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
    results: Results = {}
    failed = False
    issuer = Issuer()
    try:
        for name in names:
            mine: Results = {}
            for server in ["generator"] if name == "ceiling" else servers:
                launch = Launch(
                    name=server,
                    core=options.server_core,
                    issuer=issuer.url,
                    binary=options.binary,
                    postgres=options.postgres,
                )
                ground = Ground(
                    launch=launch,
                    issuer=issuer,
                    generator=Generator(program, options.load_core, launch.dialect),
                    folder=Path(tempfile.mkdtemp(prefix=f"{server}-", dir=options.data_root)),
                    quick=options.quick,
                    rates=tuple(int(rate) for rate in options.rates.split(",") if rate),
                )
                try:
                    mine[server] = (ceiling if name == "ceiling" else SCENARIOS[name])(ground)
                except Failure as failure:
                    failed = True
                    print(f"{name}, {server}: {failure}\n(its folder stays: {ground.folder})", file=sys.stderr)
                else:
                    results.setdefault(server, []).extend(mine[server])
                    shutil.rmtree(ground.folder)
            if mine:
                console.print(steps_table(name, mine))
            if options.json:
                write_json(options.json, machine, options.quick, results)
    finally:
        issuer.close()
    if len(names) > 1 and results:
        console.print(summary_table(results, options.quick))
    return 1 if failed else 0


def write_json(path: Path, machine: dict[str, object], quick: bool, results: Results) -> None:
    servers = {server: [dataclasses.asdict(figure) for figure in figures] for server, figures in results.items()}
    path.write_text(json.dumps({"machine": machine, "quick": quick, "servers": servers}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
