"""The worlds of `benchmarks/calibration_few.py`: are their truths true, and are verdicts counted rightly?"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "calibration_few.py"
SPEC = importlib.util.spec_from_file_location("calibration_few", PATH)
few = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = few
SPEC.loader.exec_module(few)


def changes(world, count=300):
    return np.array([few.change(world.draw(np.random.default_rng([7, i]))) for i in range(count)])


@pytest.mark.parametrize("world", [few.Rows(5), few.Rows(20), few.Users(10)])
def test_arms_can_be_swapped_and_a_gap_is_twice_the_error(monkeypatch, world):
    found = changes(world)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(found.size)
    monkeypatch.setattr(few, "DRAWS", 200)
    apart = changes(replace(world, gap=few.gap_for(world)))
    assert -apart.mean() / apart.std() == pytest.approx(few.ERRORS, abs=0.4)


@pytest.mark.parametrize("name", ["40 rows, 10 positive, near", "100 rows, 10 positive, far"])
def test_the_true_loss_is_the_margin(name):
    world, margin = few.margin_world(name)
    found = changes(world, 1500)
    assert -found.mean() == pytest.approx(margin, abs=4 * found.std() / np.sqrt(found.size))


def test_what_is_said_is_counted():
    nothing = few.counted(few.Rows(3), 4, 20, margin=0.5)
    assert {metric: shares["refused"] for metric, shares in nothing.items()} == dict.fromkeys(
        ("auc", "logloss", "ne", "calibration"), 1.0
    )
    assert nothing["auc"] == {"verdict": 0.0, "worse": 0.0, "refused": 1.0, "not_worse": 0.0}
    sure = few.counted(few.Rows(100, gap=3.0), 4, 20, margin=0.9, metrics=("auc",))
    assert sure == {"auc": {"verdict": 1.0, "worse": 1.0, "refused": 0.0, "not_worse": 1.0}}


def test_cells_go_on_where_they_were(monkeypatch, tmp_path):
    asked = []

    def cell(name):
        return lambda sims, replicates: asked.append(name) or few.counted(few.Rows(20), sims, replicates, 0.1)

    names = ["error, 20 positives", "margin, 40 rows"]
    monkeypatch.setattr(few, "cells", lambda: {name: cell(name) for name in names})
    (tmp_path / "few-2-10.jsonl").write_text(json.dumps([names[0], cell("")(2, 10)]) + "\n")
    asked.clear()
    found = few.run(tmp_path, 2, 10)
    assert asked == names[1:]
    assert few.run(tmp_path, 2, 10) == found
    assert asked == names[1:]
    found[names[1]]["margin"] = 0.1
    errors, margins = few.tables(found)
    assert (errors.row_count, margins.row_count) == (1, 1)
    assert [*errors.columns[1].cells] == [f"{100 * found[names[0]]['auc']['verdict']:.1f}"]
