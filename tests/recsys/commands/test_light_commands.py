"""Commands that train nothing import no torch, which alone takes longer than their work."""

import subprocess
import sys
from pathlib import Path

from recsys.training.run import SETTINGS, Run

CODE = "import sys; from recsys.cli import app; app(standalone_mode=False); print('torch' in sys.modules)"


def imports_torch(folder: Path, *arguments: object) -> bool:
    command = [sys.executable, "-P", "-c", CODE, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] == "True"


def test_tables_of_one_rank(run: Run, tmp_path: Path) -> None:
    tables = ("tables", run.path / SETTINGS, "--on", run.prepared_path)
    assert not imports_torch(tmp_path, *tables)
    assert imports_torch(tmp_path, *tables, "--ranks", 2), "TorchRec's planner needs it"


def test_compare_of_finished_runs(run: Run, tmp_path: Path) -> None:
    """With the slices that are read of prepared rows."""
    arms = (f"a={run.path}", f"b={run.path}")
    assert not imports_torch(tmp_path, "compare", *arms, "--replicates", 100, "--slice", "user_id")
    assert (tmp_path / "report.html").is_file()
