"""A thousand replacements of the served folder while requests run."""

import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys_cython_ext.files import file_digest
from recsys_tables.serving.artefact import MANIFEST

from .conftest import Server, replace, wait_for

REPLACEMENTS, CLIENTS, ROWS = 1000, 3, 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_answer_belongs_to_one_version_and_none_is_lost(
    start: Callable[..., Any], exported: dict[str, Path], predictors: Any, rows: Any, tmp_path: Path
) -> None:
    expected = {
        file_digest(folder / MANIFEST): predictors[name].predict(rows[:ROWS]).tolist()
        for name, folder in exported.items()
    }
    served = shutil.copytree(exported["fp32"], tmp_path / "served")
    answers: Counter[str] = Counter()
    problems: list[Any] = []
    finished = threading.Event()

    def ask(server: Server) -> None:
        connection = server.connection()
        body = json.dumps({"rows": rows[:ROWS]})
        while not finished.is_set():
            try:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                version, predictions = (
                    answer.headers["x-model-version"],
                    json.loads(answer.read())["predictions"],
                )
                if answer.status != 200 or predictions != expected[version]:
                    problems.append((answer.status, version, predictions))
                answers[version] += 1
            except Exception as error:  # a lost answer
                problems.append(error)
        connection.close()

    with start(served, "--workers", 2, "--reload-seconds", 0.05) as server:
        wait_for(lambda: server.ask("/readyz")[0] == 200)
        clients = [threading.Thread(target=ask, args=(server,)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for number in range(REPLACEMENTS):
            replace(served, exported["int4" if number % 2 == 0 else "fp32"])
            before = sum(answers.values())
            wait_for(lambda before=before: sum(answers.values()) > before or problems)
        finished.set()
        for client in clients:
            client.join()
    switches = sum(line["event"] == "served" for line in server.lines)
    refused = sum(line["event"] == "refused" for line in server.lines)
    print(f"{sum(answers.values())} answers, {dict(answers)}; {switches} switches, {refused} times no folder")
    assert problems == []
    assert set(answers) == set(expected)
    assert switches > REPLACEMENTS / 10
