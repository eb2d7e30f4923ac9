"""A bounded load on `recsys serve` over loopback, beside the bare predictor: latency, requests a second, CPU time.

python benchmarks/serving_load.py FOLDER LOG [--requests 2000] [--connections 4] [--batch 1000] [--rounds 5]

FOLDER is what `recsys export` wrote, LOG a Parquet file with the columns that its features read; the first rows are asked.
Servers with one and with two workers are started on a free port. In each round all arms take turns, each with its share
of --requests: the predictor in this process, one connection, and --connections at once, each of which asks again when it
has its answer. Then the same with --batch rows a request (a fortieth as many), as dicts, JSON and Arrow.

`CPU ms` is processor time of the server (of this process, where the predictor is asked) a request, which other work on
the machine changes least; the client's own is not in it, but takes part of the cores.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from recsys.serving.predictor import Predictor
from recsys.serving.server.app import ARROW, JSON

Arm = Callable[
    [int], tuple[list[float], float, float]
]  # of n requests: seconds of each, of all, and of the processor


class Server:
    """A server in processes of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = psutil.Process(process.pid)
        self.host, self.port = urlsplit(url).hostname, urlsplit(url).port

    def cpu(self) -> float:
        """Return the processor time of all its processes, in seconds."""
        processes = [self.process, *self.process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def arm(self, bodies: list[bytes], media: str, connections: int) -> Arm:
        """Return an arm that asks these bodies in turn over so many connections."""

        def ask(requests: int) -> tuple[list[float], float, float]:
            cpu, began = self.cpu(), time.perf_counter()
            seconds = asyncio.run(self._load(bodies, media, connections, requests))
            return seconds, time.perf_counter() - began, self.cpu() - cpu

        return ask

    async def _load(self, bodies: list[bytes], media: str, connections: int, requests: int) -> list[float]:
        seconds: list[float] = []
        numbers = iter(range(requests))

        async def client() -> None:
            reader, writer = await asyncio.open_connection(self.host, self.port)
            for number in numbers:
                body = bodies[number % len(bodies)]
                head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n\r\n"
                began = time.perf_counter()
                writer.write(head.encode() + body)
                status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in headers if line)
                await reader.readexactly(int(fields["content-length"]))
                seconds.append(time.perf_counter() - began)
                assert " 200 " in status, status
            writer.close()

        await asyncio.gather(*(client() for _ in range(connections)))
        return seconds


@contextmanager
def serving(folder: Path, workers: int) -> Iterator[Server]:
    """Start a server, and stop it."""
    command = [sys.executable, "-P", "-m", "recsys.cli", "serve", str(folder), "--port", "0"]
    command += ["--workers", str(workers), "--max-body", str(1 << 26)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        listening = json.loads(process.stdout.readline())
        devour = subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
        try:
            yield Server(process, listening["url"])
        finally:
            process.terminate()
            process.wait()
            devour.wait()


def bare(predictor: Predictor, requests_of: list[Any]) -> Arm:
    """Return an arm that asks the predictor in this process."""

    def ask(requests: int) -> tuple[list[float], float, float]:
        seconds, cpu, start = [], time.process_time(), time.perf_counter()
        for number in range(requests):
            began = time.perf_counter()
            predictor.predict(requests_of[number % len(requests_of)])
            seconds.append(time.perf_counter() - began)
        return seconds, time.perf_counter() - start, time.process_time() - cpu

    return ask


def stream(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    """Return rows as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as out:
        out.write_table(pa.Table.from_pylist(rows, schema))
    return sink.getvalue().to_pybytes()


def measure(arms: dict[str, Arm], requests: int, rounds: int) -> Table:
    """Return a table of all arms, which take turns."""
    for arm in arms.values():
        arm(max(20, requests // rounds // 10))  # both workers are warm
    parts: dict[str, list[tuple[list[float], float, float]]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in np.random.default_rng(number).permutation(list(arms)):
            parts[name].append(arms[name](requests // rounds))
    grid = Table("arm", *("p50 ms", "p99 ms", "requests/s", "CPU ms"), title=f"{requests:,} requests an arm")
    for name, of_arm in parts.items():
        seconds = np.concatenate([one for one, _, _ in of_arm])
        total, cpu = (sum(part[place] for part in of_arm) for place in (1, 2))
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        rate = len(seconds) / total
        grid.add_row(name, f"{p50:.2f}", f"{p99:.2f}", f"{rate:,.0f}", f"{1000 * cpu / len(seconds):.2f}")
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    predictor = Predictor.open(args.folder)
    table = pq.read_table(args.log).slice(0, 2 * args.batch).select(predictor.transform.columns)
    rows = table.to_pylist()
    batches = [rows[: args.batch], rows[-args.batch :]]
    console = Console()
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(args.folder, workers)) for workers in (1, 2))
        single = [json.dumps(row).encode() for row in rows]
        many = args.connections
        arms = {
            "predictor": bare(predictor, rows),
            "server, 1 connection": one.arm(single, JSON, 1),
            f"server, {many} connections": one.arm(single, JSON, many),
            f"2 workers, {many} connections": two.arm(single, JSON, many),
        }
        console.print(measure(arms, args.requests, args.rounds))
        as_json = [json.dumps({"rows": batch}).encode() for batch in batches]
        as_arrow = [stream(batch, table.schema) for batch in batches]
        arms = {
            f"predictor, {args.batch} dicts": bare(predictor, batches),
            "server, JSON, 1 connection": one.arm(as_json, JSON, 1),
            "server, Arrow, 1 connection": one.arm(as_arrow, ARROW, 1),
            f"2 workers, Arrow, {many} connections": two.arm(as_arrow, ARROW, many),
        }
        console.print(measure(arms, max(args.rounds, args.requests // 40), args.rounds))


if __name__ == "__main__":
    main()
