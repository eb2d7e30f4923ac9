"""One log prepared in several ways, killed and resumed among them: is the folder the same to the byte?

python benchmarks/pipeline_identity.py criteo80k.parquet [--rows 800000] [--kills 10] [--ray-kills 3] [--seed 0]

Ways: one process; one process on one core; two Ray workers; both again, killed with SIGKILL at moments drawn over
the duration of an uninterrupted run (without imports and the start of Ray) and started again until the kills are
used up, then run to the end. A run that ends before its moment leaves a finished folder: its digest is taken too,
and the next run starts from nothing. Of every kill is said what was already there: parts that were read and typed,
all of them (fitting), fitted features, shards, the manifest.
Every run is a session of its own, and a kill takes all of that session: Ray's servers and workers too.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import declared
from rich.console import Console
from rich.table import Table

PATIENCE = 3600  # seconds until a run counts as stuck
STAGES = {
    "nothing": "nothing",
    "parts": "*/staged/*.arrow",
    "all parts": "*/staged/staged.json",
    "features": "*/features/features.json",
    "shards": "*/t*/*.arrow",
    "manifest": "*/manifest.json",
}


@dataclass
class Outcome:
    """How a way of preparing went.

    Seconds in all and of the last run's preparing, what was there at each kill, and the digest of every finished folder.
    """

    seconds: float
    preparing: float
    kills: list[str]
    digests: list[str]


class Way:
    """Preparation of `text` under `out` in sessions of their own."""

    def __init__(self, text: Path, out: Path, ray_folder: Path, workers: int = 0) -> None:
        self._out = out
        self._command = [sys.executable, __file__, str(text), "--out", str(out), "--workers", str(workers)]
        self._env = {**os.environ, "RAY_TMPDIR": str(ray_folder), "RAY_USAGE_STATS_ENABLED": "0"}

    def run(self, moment: float = PATIENCE) -> float | None:
        """Seconds of preparing; None if killed `moment` seconds after it began."""
        with subprocess.Popen(
            self._command, env=self._env, start_new_session=True, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            try:
                process.stdout.readline()  # imports are done, Ray is there
                finished = ended(process.pid, moment)
            finally:
                kill_session(process.pid)
            if not finished:
                return None
            if process.wait():
                sys.exit(f"a run ended with {process.returncode}")
            return float(process.stdout.readline())

    def whole(self) -> Outcome:
        """Run to the end."""
        started = time.perf_counter()
        preparing = self.run()
        if preparing is None:
            sys.exit(f"a run had not ended after {PATIENCE} seconds")
        return Outcome(time.perf_counter() - started, preparing, [], [digest(self._out)])

    def killed(self, kills: int, duration: float, seed: int) -> Outcome:
        """Kill `kills` times, then run to the end."""
        draw, found, digests, started = random.Random(seed), [], [], time.perf_counter()
        while len(found) < kills:
            if self.run(draw.uniform(0, duration)) is None:
                found.append(reached(self._out))
            else:
                digests.append(digest(self._out))
                shutil.rmtree(self._out)
        last = self.whole()
        seconds = time.perf_counter() - started
        return Outcome(seconds, last.preparing, found, digests + last.digests)


def reached(root: Path) -> str:
    """How far the preparation under `root` has come."""
    return next((name for name, files in reversed(STAGES.items()) if any(root.glob(files))), "nothing")


def ended(pid: int, limit: float) -> bool:
    """Whether a child ended within `limit` seconds. It stays to be waited for, so that its number stays its own."""
    until = time.perf_counter() + limit
    while (now := time.perf_counter()) < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(min(0.005, until - now))
    return False


def kill_session(session: int) -> None:
    """Kill all processes of a session, by their numbers, until none is left."""
    while alive := members(session):
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if folder.name.isdigit():
                # after the name in brackets: state, parent, group, session
                state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(sid) == session and state not in "ZX":
                    found.append(int(folder.name))
    return found


def digest(root: Path) -> str:
    """BLAKE2b over the sorted names and the contents of all files but locks."""
    found = hashlib.blake2b(digest_size=10)
    files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    for name in sorted(files):
        if files[name].name != ".lock":
            content = files[name].read_bytes()
            found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()


def prepare(text: Path, out: Path, workers: int) -> None:
    """In this process, or on Ray from it; say when it begins, and how long it took."""
    from recsys_pipelines.preparation.prepare import prepare

    runner = None
    with ExitStack() as stack:
        if workers:
            from recsys_pipelines.preparation.on_ray import RayData
            from recsys_pipelines.preparation.session import ray_session

            stack.enter_context(ray_session(workers))
            runner = RayData(workers)
        print("ready", flush=True)
        started = time.perf_counter()
        prepare(*declared(text), out, runner=runner)
        print(time.perf_counter() - started, flush=True)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Outcome]:
    """Prepare in every way; say each as it is done."""
    from criteo_text import write

    text = folder / "train.txt"
    write(args.source, text, args.rows)
    print(f"{args.rows:,} rows, {text.stat().st_size / 1e6:,.0f} MB of text")
    outcomes: dict[str, Outcome] = {}

    def way(name: str, workers: int = 0) -> Way:
        return Way(text, folder / name, folder / "r", workers)

    def done(name: str, outcome: Outcome) -> float:
        outcomes[name] = outcome
        print(
            f"{name}: {outcome.seconds:.1f} s, kills: {counted(outcome.kills)}, {outcome.digests}", flush=True
        )
        return outcome.preparing

    duration = done("one process", way("one").whole())
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # inherited
    try:
        done("one core", way("core").whole())
    finally:
        os.sched_setaffinity(0, cores)
    done("one process, killed", way("killed").killed(args.kills, duration, args.seed))
    duration = done("two Ray workers", way("ray", 2).whole())
    done("two Ray workers, killed", way("ray-killed", 2).killed(args.ray_kills, duration, args.seed))
    return outcomes


def counted(kills: list[str]) -> str:
    """Return what was there at the kills, and how often."""
    counts = Counter(kills)
    return ", ".join(f"{counts[name]} {name}" for name in STAGES if name in counts) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--ray-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.out:
        return prepare(args.source, args.out, args.workers)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    # Ray's sockets lie in this folder, and their names may not be long
    with tempfile.TemporaryDirectory(prefix="id", dir="/tmp") as folder:
        outcomes = compare(args, Path(folder))
    shown = Table("", "seconds", "kills", "was there", "finished", "digest", title=f"{args.rows:,} rows")
    for name, outcome in outcomes.items():
        shown.add_row(
            name,
            f"{outcome.seconds:.1f}",
            str(len(outcome.kills)),
            counted(outcome.kills),
            str(len(outcome.digests)),
            "\n".join(sorted(set(outcome.digests))),
        )
    Console(width=110).print(shown)
    same = len({found for outcome in outcomes.values() for found in outcome.digests}) == 1
    print("all folders are the same to the byte" if same else "folders DIFFER")
    if args.json:
        results = {name: vars(outcome) for name, outcome in outcomes.items()}
        args.json.write_text(json.dumps({"rows": args.rows, "same": same, "ways": results}, indent=1))
    sys.exit(not same)


if __name__ == "__main__":
    main()
