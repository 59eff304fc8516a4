"""Measure the service under load: `make bench-service`, or `python -m benchmarks.service`.

It needs two cores that nothing else uses, and goes on where it stopped if it is started again with the same `--out`.
`--report` prints the tables of what is there.
"""

import argparse
import json
import os
from datetime import date
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.service import bundles, machine, report, servers
from benchmarks.service.measure import Book, Generator, Measurement, Settings

QUICK = {"seconds": 0.5, "rounds": 1}
"""Settings of a run that shows that everything works, and measures nothing."""


def main(arguments: list[str] | None = None) -> None:
    """Run the measurement, and print its tables."""
    choices = _parser().parse_args(arguments)
    results = choices.out / "service.json"
    if not choices.report:
        torch.set_num_threads(1)
        settings = _settings(choices)
        folder = choices.out / ("tiny" if choices.quick else "pretrained")
        if not (folder / bundles.EXAMPLES).exists():
            (bundles.tiny if choices.quick else bundles.pretrained)(folder)
        head = {"settings": vars(settings), "bundles": folder.name}
        book = Book(results, head, {"date": date.today().isoformat(), "machine": machine.describe(_peers(choices))})
        with Generator(folder, settings.load_core) as generator:
            say = Console(stderr=True).print
            measurement = Measurement(settings, folder, book, generator, choices.out / "servers.log", say)
            _measure(measurement, settings, choices)
    print(report.markdown(json.loads(results.read_text())))


def _measure(measurement: Measurement, settings: Settings, choices: argparse.Namespace) -> None:
    """Measure every server in every round."""
    subjects = servers.own()
    for name in () if choices.litserve is None else (servers.BATCHES, servers.STAGES):
        found = servers.variants(choices.litserve, name)
        subjects.append(next(iter(found.values())) if choices.quick else measurement.tune(name, found))
    if choices.triton is not None:
        subjects.append(servers.triton(choices.triton))
    capacity = {server.name: measurement.capacity(server) for server in subjects}
    for i in range(settings.rounds):
        measurement.runner(i)
        for server in subjects[i % len(subjects) :] + subjects[: i % len(subjects)]:
            measurement.round(i, server, capacity[server.name], capacity[servers.OURS_FULL])


def _peers(choices: argparse.Namespace) -> dict[str, str]:
    """Return the Python of each peer that is measured."""
    found = {"litserve": choices.litserve, "nvidia-pytriton": choices.triton}
    return {name: python for name, python in found.items() if python is not None}


def _settings(choices: argparse.Namespace) -> Settings:
    """Return the settings, with the last core for the servers and the first for the load generator."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(f"expected two cores, got {len(cores)}: the load generator would slow the server down")
    chosen = {"seconds": choices.seconds, "rounds": choices.rounds, **(QUICK if choices.quick else {})}
    return Settings(**chosen, limit_ms=choices.limit_ms, server_core=cores[-1], load_core=cores[0])


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description="Measure the service under load.")
    parser.add_argument("--out", type=Path, default=Path("build/service"), help="folder of bundles and results")
    parser.add_argument("--report", action="store_true", help="print the tables of the results that are there")
    parser.add_argument("--quick", action="store_true", help="a tiny network for a moment, which measures nothing")
    parser.add_argument("--litserve", metavar="PYTHON", help="Python of an environment with litserve")
    parser.add_argument("--triton", metavar="PYTHON", help="Python of an environment with nvidia-pytriton")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="of each load (default: 8)")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="over all servers (default: 5)")
    parser.add_argument("--limit-ms", type=float, default=Settings.limit_ms, help="bound on p99 (default: 100)")
    return parser


if __name__ == "__main__":
    main()
