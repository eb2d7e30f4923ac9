"""How OpenMP's threads wait is the user's to say; where nobody says, they sleep."""

import os

import pytest

from recsys_cython_ext.threads import WAITING, wait_passively, waiting_of_workers


@pytest.mark.parametrize(("said", "wanted"), [(None, "passive"), ("active", "active")])
def test_threads_wait_passively_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, said: str | None, wanted: str
) -> None:
    monkeypatch.setenv(WAITING, "")  # so that it is put back afterwards
    monkeypatch.delenv(WAITING)
    if said is not None:
        monkeypatch.setenv(WAITING, said)
    assert waiting_of_workers() == {WAITING: wanted}
    wait_passively()
    assert os.environ[WAITING] == wanted
    assert waiting_of_workers() == {WAITING: wanted}
