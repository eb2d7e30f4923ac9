"""Files that appear whole: under kills, two writers, full disks, planted links and any umask."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from recsys_cython_ext import files
from recsys_cython_ext.files import (
    CannotWrite,
    digest,
    file_digest,
    link,
    locked,
    new_file,
    new_folder,
    new_path,
    text_digest,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with new_file(target) as file:
        file.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert names(target.parent) == ["a.txt"]


def test_what_fails_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    write_text("before", tmp_path / "a.txt")

    def fail_in_a_file() -> None:
        with new_file(tmp_path / "a.txt") as file:
            file.write(b"after")
            raise RuntimeError

    def fail_in_a_folder() -> None:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "inside").touch()
            raise RuntimeError

    for fail in (fail_in_a_file, fail_in_a_folder):
        with pytest.raises(RuntimeError):
            fail()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_a_folder_is_never_written_over(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "inside").write_text("first")
    with pytest.raises(FileExistsError, match="exists already"), new_folder(tmp_path / "a") as folder:
        (folder / "inside").write_text("second")
    assert (tmp_path / "a" / "inside").read_text() == "first"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json({}, tmp_path / "a.json")
        with new_path(tmp_path / "b.safetensors") as path:  # the library would make it 0600
            save_file({"a": np.zeros(2, np.float32)}, path)
        with new_folder(tmp_path / "folder") as folder:
            save_file({"a": np.zeros(2, np.float32)}, folder / "c.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "a.json", tmp_path / "b.safetensors", tmp_path / "folder" / "c.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask, file
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_planted_link_at_a_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its random name is guessed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.txt").write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    (tmp_path / f".a.txt.{'0' * 16}.tmp").symlink_to(victim)
    for planted in ("a.txt.tmp", "a.tmp", "a.txt.part"):
        (tmp_path / planted).symlink_to(victim / "a.txt")
    with pytest.raises(OSError, match=r"a\.txt: cannot be written .*exists"):
        write_text("mine", tmp_path / "a.txt")
    assert (victim / "a.txt").read_text() == "precious"
    monkeypatch.undo()
    write_text("mine", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "mine"
    assert (victim / "a.txt").read_text() == "precious"


HANGS = """
import sys, time
from pathlib import Path
from recsys_cython_ext.files import new_file, new_folder
with {what}(Path(sys.argv[1])) as partial:
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("what", ["new_file", "new_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, what: str) -> None:
    target = tmp_path / "a [1].bin"  # not a pattern
    process = python(HANGS.format(what=what), target)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    with new_path(target.with_name("other")) as partial:  # another target's is left alone
        partial.touch()
    write_text("mine, while another writes", target)
    assert len([name for name in names(tmp_path) if name.endswith(".tmp")]) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len([name for name in names(tmp_path) if name.endswith(".tmp")]) == 1
    write_text("mine", target)
    assert names(tmp_path) == [target.name, "other"]


WRITES = """
import sys
from pathlib import Path
from recsys_cython_ext.files import new_file
for _ in range(200):
    with new_file(Path(sys.argv[1])) as file:
        for _ in range(5):
            file.write(sys.argv[2].encode() * 100)
"""


def test_two_writers_of_one_file_never_mix(tmp_path: Path) -> None:
    target = tmp_path / "a"
    writers = [python(WRITES, target, letter) for letter in "xy"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            text = target.read_text()
            assert text in ("x" * 500, "y" * 500)
            seen.add(text)
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == ""
        assert writer.returncode == 0
    assert seen
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")

    def write() -> None:
        with new_path(tmp_path / "a") as partial, full.open("w") as file:
            partial.touch()
            file.write("x" * 100_000)

    with pytest.raises(CannotWrite, match=r"a: cannot be written .*bytes are free; make room") as caught:
        write()
    assert caught.value.errno == 28
    assert names(tmp_path) == []


def test_errors_of_other_files_keep_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), new_file(tmp_path / "a"):
        (tmp_path / "missing").read_text()


def test_a_link_is_a_file_of_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text("text", tmp_path / "a")
    link(tmp_path / "a", tmp_path / "b")

    def refused(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "a").stat().st_ino == (tmp_path / "b").stat().st_ino
    assert (tmp_path / "c").read_text() == "text"


def test_a_lock_is_held_and_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from recsys_cython_ext.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    process = python(code, tmp_path / ".lock")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(TimeoutError, match="another process holds it"), locked(tmp_path / ".lock", 0.2):
        pass
    process.kill()
    process.communicate()
    started = time.monotonic()
    with locked(tmp_path / ".lock", 10):
        assert time.monotonic() - started < 5


@given(st.text())
def test_one_hash_for_texts_and_files(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "digested"
    file.write_bytes(text.encode())
    assert file_digest(file) == text_digest(text)
    assert len(text_digest(text)) == 16


@pytest.mark.parametrize(
    "length", [0, 1, 31, 32, 33, 2**20 - 1, 2**20, 2**20 + 7, 2**20 + 40, 2**21, 2**21 + 1]
)
def test_a_file_is_digested_by_blocks_as_it_is_whole(tmp_path: Path, length: int) -> None:
    content = np.random.default_rng(length).bytes(length)
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == xxhash.xxh64_hexdigest(content) == digest(content)


def test_a_sealed_file_is_told_from_what_is_cut_off_damaged_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    assert not files.is_sealed(file)
    file.write_bytes(b"abc")
    assert not files.is_sealed(file)
    files.seal(file)
    assert files.is_sealed(file)
    for content in (b"ab", b"abd", b""):
        file.write_bytes(content)
        assert not files.is_sealed(file)
    file.write_bytes(b"abc")
    assert files.is_sealed(file)
    for content in (b"", b"\xff\xfe", b"0" * 16):
        files.seal_of(file).write_bytes(content)
        assert not files.is_sealed(file)
    file.unlink()
    assert not files.is_sealed(file)
