"""A Criteo text larger than its preparation's memory: rows a second, peak of memory, sizes.

python benchmarks/pipeline_large.py criteo80k.parquet [--gigabytes 5] [--dir FOLDER]

The text is made first (`criteo_text.py`), then prepared in a process of its own: 26 vocabularies of ids seen twice
and 13 logs. FOLDER needs room for about three times the text, and is left as it was.
Resident memory counts pages of mapped files, which the system takes back when it wants; anonymous memory does not.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from criteo_text import write
from rich.console import Console
from rich.table import Table


def bytes_of(pid: int | str, field: str) -> int:
    """Return a field of /proc/PID/status; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def generate(source: Path, text: Path, target: float) -> int:
    """Write about `target` bytes; return the number of rows."""
    sample = 50_000
    write(source, text, sample)
    rows = max(1, round(target / text.stat().st_size * sample))
    write(source, text, rows)
    return rows


def prepare(text: Path, out: Path) -> dict[str, float]:
    """Seconds and peaks of a preparation, watched from outside."""
    script = Path(__file__).with_name("pipeline.py")
    command = [sys.executable, str(script), str(text), "--contender", "ours, vocabulary", "--out", str(out)]
    anonymous = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            while process.poll() is None:
                anonymous = max(anonymous, bytes_of(process.pid, "RssAnon"))
                time.sleep(0.1)
            answer = process.communicate()[0]
        finally:
            process.kill()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(answer) | {"anonymous": anonymous}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--gigabytes", type=float, default=5)
    parser.add_argument(
        "--dir", type=Path, help="where there is room; default: the system's temporary folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        text, out = Path(folder) / "train.txt", Path(folder) / "prepared"
        started = time.perf_counter()
        rows = generate(args.source, text, args.gigabytes * 1e9)
        generated = time.perf_counter() - started
        print(f"{rows:,} rows made in {generated:.0f} s, {bytes_of('self', 'VmHWM') / 1e6:,.0f} MB at most")
        found = prepare(text, out)
        found |= {"rows": rows, "text": text.stat().st_size, "prepared": size(out)}
        found["shards"] = sum(
            size(split) for name in ("train", "validation", "test") for split in out.glob(f"*/{name}")
        )
    shown = Table("", "", title="Preparation", show_header=False)
    shown.add_row("rows/s", f"{rows / found['seconds']:,.0f}")
    shown.add_row("seconds", f"{found['seconds']:.1f}")
    for name, field in (
        ("text", "text"),
        ("shards", "shards"),
        ("shards, features and manifest", "prepared"),
        ("peak resident (VmHWM)", "peak"),
        ("peak anonymous (RssAnon every 0.1 s)", "anonymous"),
    ):
        shown.add_row(f"{name}, MB", f"{found[field] / 1e6:,.0f}")
    Console(width=110).print(shown)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
