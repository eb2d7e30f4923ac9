"""Checkpoints: what any ranks wrote under any sharding, any others read; the rest is refused by name.

The values written are a function of (tensor, row, column), so that every reader can check what it got.
"""

import dataclasses
import errno
import functools
import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_cython_ext import manifest as manifests
from recsys_cython_ext import xxh64
from recsys_tables import FrequencySplit, Full, Hash, QuotientRemainder, Unified
from recsys_tables.distributed import checkpoint, manifest, saving
from recsys_tables.distributed.changes import Baseline
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.distributed.pieces import Piece, pieces, snapshot
from recsys_tables.distributed.saving import save
from recsys_tables.distributed.sharding import Sharding, TableOptimizer, plan_sharding, shard
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.field import Field
from recsys_tables.scheme import Scheme

CPU = torch.device("cpu")
Optimizer = Literal["rowwise_adagrad", "adagrad", "sgd"]
InRanks = Callable[..., list[int]]

SCHEMES: tuple[Scheme, ...] = (
    Full("few", 3, 8),  # fewer rows than ranks
    Full("user", 50, 20),  # five column shards of 4
    Hash("item", 29, 12),
    QuotientRemainder("genre", 50, 7, 8, "product"),
    FrequencySplit("word", 10, 11, 8),
    Unified("a", 31, 8, 4),
    Unified("b", 31, 8, 4),
)
GROWN: tuple[Scheme, ...] = (
    Full("few", 6, 8),
    Full("user", 77, 20),
    Hash("item", 29, 12),
    QuotientRemainder("genre", 99, 7, 8, "product"),
    FrequencySplit("word", 25, 11, 8),
    Unified("a", 31, 8, 4),
    Unified("b", 31, 8, 4),
)
# (ranks, sharding, optimiser); `unfit` is column_wise with rowwise Adagrad, by a plan of one's own
Layout = tuple[int, str, Optimizer]
ROWWISE: list[Layout] = [
    (1, "table_wise", "rowwise_adagrad"),
    (2, "table_wise", "rowwise_adagrad"),
    (2, "row_wise", "rowwise_adagrad"),
    (4, "table_wise", "rowwise_adagrad"),
    (4, "row_wise", "rowwise_adagrad"),
]
ELEMENTWISE: list[Layout] = [
    (1, "table_wise", "adagrad"),
    (2, "column_wise", "adagrad"),
    (2, "row_wise", "adagrad"),
    (4, "column_wise", "adagrad"),
    (4, "row_wise", "adagrad"),
]
UNFIT: list[Layout] = [(2, "unfit", "rowwise_adagrad"), (4, "unfit", "rowwise_adagrad")]
TWICE: Layout = (2, "row_wise", "rowwise_adagrad")


class Model(nn.Module):
    """Tables, a layer, whole-number buffers and weights that are tied."""

    def __init__(self, schemes: tuple[Scheme, ...] = SCHEMES, width: int = 3) -> None:
        super().__init__()
        fields = [Field(scheme, multivalued=scheme.feature == "genre") for scheme in schemes]
        self.engine = EmbeddingEngine(fields, torch.device("meta"))
        self.norm = nn.BatchNorm1d(sum(self.engine.embedding_dims))
        self.top = nn.Linear(sum(self.engine.embedding_dims), width)
        self.tied = nn.Linear(sum(self.engine.embedding_dims), width)
        self.tied.weight = self.top.weight

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        values = self.norm(self.engine(ids).values())
        return self.top(values) + self.tied(values)


def make(
    sharding: str = "table_wise",
    optimizer: Optimizer = "rowwise_adagrad",
    schemes: tuple[Scheme, ...] = SCHEMES,
    width: int = 3,
    seed: int = 0,
) -> Any:
    torch.manual_seed(seed)
    model, table, plan = Model(schemes, width), TableOptimizer(optimizer, lr=0.1), None
    kind: Any = sharding
    if sharding == "unfit":
        kind = "column_wise"
        plan = plan_sharding(model, kind, TableOptimizer("adagrad"), dist.get_world_size(), CPU)
    return shard(model, table, CPU, seed, kind, plan)


def expected(piece: Piece) -> Tensor:
    """Return what `piece` is to hold: a function of its name and place; per column shard where a state is one a row."""
    base = xxh64(piece.name.replace("tied.weight", "top.weight").encode()) % 97
    if piece.name.startswith("dense/"):
        return torch.full_like(piece.values, base)
    rows = torch.arange(piece.first_row, piece.first_row + len(piece.values))
    if piece.values.ndim == 1:
        return (base + rows + 1000.0 * piece.first_column).float()
    columns = torch.arange(piece.first_column, piece.first_column + piece.columns)
    return (base + 100 * rows[:, None] + columns).float()


def fill(model: Any) -> None:
    with torch.no_grad():
        for piece in pieces(model):
            piece.values.copy_(expected(piece))


def wrong(model: Any, want: Callable[[Piece], Tensor] = expected) -> list[str]:
    """Names of the tensors that are not to the bit what they should be; there are some to compare."""
    parts = pieces(model)
    assert parts
    return sorted({piece.name for piece in parts if not torch.equal(piece.values, want(piece))})


# ---- between ranks


def name_of(layout: Layout) -> str:
    return "-".join(map(str, layout))


def between_ranks(folder: Path, in_ranks: InRanks) -> None:
    """Every layout writes, then every other reads; what is wrong goes into `wrong-<reader>-<rank>.json`."""
    for world_size in (1, 2, 4):
        in_ranks(world_size, write_all, world_size, folder)
    for world_size in (1, 2, 4):
        in_ranks(world_size, read_all, world_size, folder)
    in_ranks(2, go_on, folder, 2, "row_wise", "begin")
    for world_size, sharding in ((1, "table_wise"), (2, "table_wise"), (4, "row_wise")):
        in_ranks(world_size, go_on, folder, world_size, sharding, "end")


def write_all(rank: int, world_size: int, folder: Path) -> None:
    for layout in ROWWISE + ELEMENTWISE + UNFIT:
        if layout[0] == world_size:
            model = make(*layout[1:], seed=1)
            fill(model)
            save(folder / name_of(layout), model, {"by": name_of(layout)})


def read_all(rank: int, world_size: int, folder: Path) -> None:
    checkpoint._BLOCK = 24  # rows are read in several blocks
    for reader in ROWWISE + ELEMENTWISE + UNFIT:
        if reader[0] != world_size:
            continue
        mismatches = {}
        model = make(*reader[1:], seed=2)
        for writer in writers(reader):
            with torch.no_grad():
                for piece in pieces(model):
                    piece.values.fill_(-1)
            Checkpoint(folder / name_of(writer)).load_into(model)
            mixed = writer[1] == "unfit" and writer != reader
            mismatches[name_of(writer)] = wrong(model, mean_over(writer[0]) if mixed else expected)
        (folder / f"wrong-{name_of(reader)}-{rank}.json").write_text(json.dumps(mismatches))
        if reader in ROWWISE:
            model = make(*reader[1:], schemes=GROWN, seed=2)
            first = {(p.name, p.first_row): p.values for p in snapshot(model)}
            Checkpoint(folder / name_of(TWICE)).load_into(model)
            mismatches = {"grown": wrong(model, functools.partial(grown, first))}
            (folder / f"wrong-grown-{name_of(reader)}-{rank}.json").write_text(json.dumps(mismatches))
    refused_together(rank, world_size, folder)


def writers(reader: Layout) -> list[Layout]:
    """Whose checkpoints a layout can read: those with its optimiser; of column shards with one state a row, its own."""
    if reader in UNFIT:
        return [reader]
    return ELEMENTWISE if reader in ELEMENTWISE else ROWWISE + UNFIT


def mean_over(ranks: int) -> Callable[[Piece], Tensor]:
    """Return a state of one number a row that `ranks` column shards kept, read as one: the mean by their widths."""

    def want(piece: Piece) -> Tensor:
        if not piece.name.startswith("optimizer/"):
            return expected(piece)
        width = {8: 4, 12: 4, 20: 4, 4: 4}[piece.columns]
        mean = float(np.arange(0, piece.columns, width).mean())
        values = expected(Piece(piece.name, piece.first_row, 0, piece.columns, piece.values)) + 1000 * mean
        return torch.where((piece.values - values).abs() <= 1e-6 * values, piece.values, values)

    return want


ROWS = {table.name: table.num_embeddings for scheme in SCHEMES for table in scheme.tables()}


def grown(first_values: dict[tuple[str, int], Tensor], piece: Piece) -> Tensor:
    """Rows of the checkpoint, then first values; a first state is 0."""
    first = first_values[piece.name, piece.first_row]
    if piece.name.startswith("dense/"):
        return expected(piece)
    kind, _, rest = piece.name.partition("/")
    old = ROWS[rest if kind == "table" else rest.rpartition("/")[0]] - piece.first_row
    assert kind == "table" or not first.any()
    return torch.cat([expected(piece)[: max(0, old)], first[max(0, old) :]])


def refused_together(rank: int, world_size: int, folder: Path) -> None:
    """Refuse a rank that holds no table too, which sees nothing wrong with its optimiser."""
    model = make("table_wise", "sgd", SCHEMES[:1], seed=2)
    fields = (folder / "one").with_name(f"one-{world_size}")
    save(fields, make("table_wise", "rowwise_adagrad", SCHEMES[:1], seed=3), {})
    before = snapshot(model)
    try:
        Checkpoint(fields).load_into(model)
        why = "not refused"
    except ValueError as error:
        why = str(error)
    same = all(torch.equal(a.values, b.values) for a, b in zip(before, pieces(model), strict=True))
    (folder / f"refused-{world_size}-{rank}.json").write_text(json.dumps([why, same]))


def go_on(rank: int, folder: Path, world_size: int, sharding: Sharding, part: str) -> None:
    """Three steps, a checkpoint and three more; or from the checkpoint the last three. Outputs go to a file."""
    model = make(sharding, "rowwise_adagrad", SCHEMES[:4], seed=4 if part == "begin" else 5)
    model.eval()  # a norm over the samples of one rank is another on other ranks
    if part == "end":
        Checkpoint(folder / "half").load_into(model)
    for step in range(6):
        if part == "begin" and step == 3:
            save(folder / "half", model, {})
        if part == "begin" or step >= 3:
            (model(batch(step, rank, world_size)) ** 2).sum().mul(world_size).backward()
    outputs = model(batch(9, rank, world_size)).tolist()
    (folder / f"outputs-{part}-{world_size}-{rank}.json").write_text(json.dumps(outputs))


def batch(step: int, rank: int, world_size: int) -> KeyedJaggedTensor:
    """Return this rank's 8 / world_size samples of batch `step`."""
    ids = np.random.default_rng(step).integers(0, 50, (4, 8))
    ids[0] %= 3
    of_rank = np.array_split(ids, world_size, axis=1)[rank]
    lengths = torch.ones(of_rank.size, dtype=torch.int64)
    values = torch.from_numpy(of_rank.reshape(-1).copy())
    return KeyedJaggedTensor.from_lengths_sync(["few", "user", "item", "genre"], values, lengths)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(__file__, "between_ranks", folder)
    return folder


@pytest.mark.parametrize("reader", ROWWISE + ELEMENTWISE + UNFIT, ids=name_of)
def test_what_any_ranks_wrote_any_others_read(results: Path, reader: Layout) -> None:
    """Also one number a row of column shards: exact in the same shards, else the mean weighted by width."""
    for rank in range(reader[0]):
        mismatches = json.loads((results / f"wrong-{name_of(reader)}-{rank}.json").read_text())
        assert mismatches == {name_of(writer): [] for writer in writers(reader)}


@pytest.mark.parametrize("reader", ROWWISE, ids=name_of)
def test_grown_tables_keep_their_rows_and_begin_new_ones(results: Path, reader: Layout) -> None:
    for rank in range(reader[0]):
        assert json.loads((results / f"wrong-grown-{name_of(reader)}-{rank}.json").read_text()) == {
            "grown": []
        }


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_refuse_what_one_refuses(results: Path, ranks: int) -> None:
    refusals = [json.loads((results / f"refused-{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    assert all(untouched for _, untouched in refusals)
    whys = [why for why, _ in refusals]
    assert all("table 'few/full': written with another table optimiser" in why for why in whys)
    assert sum(why.startswith("rank ") for why in whys) == ranks - 1, "the others quote the one that refused"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_training_goes_on_as_if_it_had_not_stopped(results: Path, ranks: int) -> None:
    outputs = {
        (part, world): [
            row
            for rank in range(world)
            for row in json.loads((results / f"outputs-{part}-{world}-{rank}.json").read_text())
        ]
        for part, world in (("begin", 2), ("end", ranks))
    }
    np.testing.assert_allclose(outputs["end", ranks], outputs["begin", 2], rtol=1e-4, atol=1e-5)


# ---- one rank


@pytest.fixture
def model(group: None) -> Any:
    return make()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    fill(model)
    save(tmp_path / "saved", model, {"step": 7})
    return tmp_path / "saved"


def unchanged(model: Any, before: list[Piece]) -> bool:
    return all(torch.equal(a.values, b.values) for a, b in zip(pieces(model), before, strict=True))


def test_tensors_can_be_read_without_a_model(folder: Path) -> None:
    saved = Checkpoint(folder)
    assert saved.about == {"step": 7}
    assert saved.tables().keys() == ROWS.keys()
    for name in saved.names:
        values = saved.read(name)
        columns = values.shape[1] if values.ndim == 2 else 0
        assert torch.equal(values, expected(Piece(name, 0, 0, columns, values))), name
    assert saved.read("dense/norm.num_batches_tracked").dtype == torch.int64
    assert saved.read("optimizer/user/full/momentum1").shape == (50,)


def test_a_snapshot_is_saved_as_it_was_taken(model: Any, folder: Path, tmp_path: Path) -> None:
    state = snapshot(model)
    with torch.no_grad():
        for piece in pieces(model):
            piece.values.zero_()
    save(tmp_path / "later", model, {"step": 7}, state)
    for file in ("manifest.json", "rank-0.safetensors"):
        assert (tmp_path / "later" / file).read_bytes() == (folder / file).read_bytes()


def test_extra_tensors_come_back(model: Any, tmp_path: Path) -> None:
    extra = {"exp_avg/network.bias": torch.arange(3.0), "step": torch.tensor(4)}
    save(tmp_path / "a", model, {}, extra=extra)
    back = Checkpoint(tmp_path / "a").extra()
    assert back.keys() == extra.keys()
    assert all(torch.equal(back[name], value) for name, value in extra.items())


def change(model: Any, table: str, rows: slice) -> None:
    for piece in pieces(model):
        if piece.name == f"table/{table}":
            piece.values[rows] += 1


def test_only_changed_rows_are_saved_where_they_are_smaller(model: Any, tmp_path: Path) -> None:
    since = Baseline()
    save(tmp_path / "full", model, {}, since=since)
    assert Checkpoint(tmp_path / "full").base is None
    change(model, "user/full", slice(3, 5))
    for name in ("first", "second"):  # both since the full one
        save(tmp_path / name, model, {}, since=since)
        saved = Checkpoint(tmp_path / name)
        assert saved.base is not None
        assert saved.base.folder == tmp_path / "full"
        assert saved.bytes < Checkpoint(tmp_path / "full").bytes
        for piece in pieces(model):
            whole = saved.read(piece.name)
            if not piece.name.startswith("dense/"):
                whole = whole[piece.first_row : piece.first_row + len(piece.values)]
            assert torch.equal(whole, piece.values.reshape(whole.shape)), piece.name
        change(model, "user/full", slice(0, 1))
    for table in engine_of(model).tables:
        change(model, table.name, slice(None))
    save(tmp_path / "all", model, {}, since=since)
    assert Checkpoint(tmp_path / "all").base is None, "everything changed: a new full one"
    assert since.name == "all"


def test_changes_without_their_base_are_named(model: Any, tmp_path: Path) -> None:
    since = Baseline()
    save(tmp_path / "full", model, {}, since=since)
    change(model, "user/full", slice(0, 1))
    save(tmp_path / "next", model, {}, since=since)
    (tmp_path / "full").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="full: no such checkpoint"):
        Checkpoint(tmp_path / "next")


def test_a_disk_that_is_full_leaves_nothing(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "a", model, {})
    assert list(tmp_path.iterdir()) == []


def test_a_second_model_of_that_name_is_refused(model: Any, folder: Path) -> None:
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"saved: exists already"):
        save(folder, model, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


def replaced(number: int, **changes: Any) -> tuple[Scheme, ...]:
    changed: Any = dataclasses.replace(SCHEMES[number], **changes)  # type: ignore[type-var]
    return (*SCHEMES[:number], changed, *SCHEMES[number + 1 :])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"schemes": replaced(1, num_ids=49)}, "feature 'user': num_ids was 50, and is 49 here"),
        ({"schemes": replaced(1, init_bound=0.1)}, r"feature 'user': init_bound was 0\.05, and is 0\.1 here"),
        (
            {"schemes": replaced(2, num_embeddings=30)},
            "feature 'item': num_embeddings was 29, and is 30 here",
        ),
        ({"schemes": replaced(3, divisor=8)}, "feature 'genre': divisor was 7, and is 8 here"),
        (
            {"schemes": replaced(3, operation="sum")},
            "feature 'genre': operation was 'product', and is 'sum' here",
        ),
        ({"schemes": replaced(4, num_tail=12)}, "feature 'word': num_tail was 11, and is 12 here"),
        ({"schemes": replaced(4, num_hot=9)}, "feature 'word': num_hot was 10, and is 9 here"),
        (
            {"schemes": (*SCHEMES[:2], Full("item", 29, 12), *SCHEMES[3:])},
            "feature 'item': scheme was 'Hash', and is 'Full' here",
        ),
        ({"schemes": SCHEMES[1:]}, "feature 'few' is not in this model"),
        (
            {"schemes": (SCHEMES[1], SCHEMES[0], *SCHEMES[2:])},
            "its features come in another order: 'few' where this model has 'user'",
        ),
        ({"schemes": (*SCHEMES, Full("new", 5, 8))}, "lacks feature 'new' of this model"),
        (
            {"optimizer": "adagrad"},
            r"table '.*': written with another table optimiser, whose state is \{'momentum1': 'a number a row'\}, "
            r"and here \{'momentum1': 'a number a weight'\}",
        ),
        ({"optimizer": "sgd"}, "table '.*': written with another table optimiser, .* and here none"),
        ({"width": 4}, r"dense/tied\.bias: the checkpoint's shape is \[3\], the model's \[4\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_by_name_and_changes_nothing(
    folder: Path, settings: dict[str, Any], why: str
) -> None:
    other = make(**settings, seed=9)
    before = snapshot(other)
    with pytest.raises(CheckpointError, match=rf"{folder}: .*{why}"):
        Checkpoint(folder).load_into(other)
    assert unchanged(other, before)


def test_a_checkpoint_without_state_is_refused_by_an_optimiser_that_has_one(
    group: None, tmp_path: Path
) -> None:
    save(tmp_path / "sgd", make(optimizer="sgd"), {})
    with pytest.raises(CheckpointError, match="another table optimiser, whose state is none, and here"):
        Checkpoint(tmp_path / "sgd").load_into(make())


@pytest.mark.parametrize("version", ["HASH_VERSION", "FORMAT_VERSION"])
def test_another_version_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(manifest, version, 99)
    with pytest.raises(
        CheckpointError, match=rf"{version.lower()} \d, but this program reads 99; train again"
    ):
        Checkpoint(folder)


# ---- damage


def test_a_flipped_byte_is_refused_wherever_it_is(folder: Path) -> None:
    random = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        places = {*random.integers(0, len(content), 300).tolist(), 0, 7, 8, len(content) - 1}
        for place in sorted(places):
            changed = bytearray(content)
            changed[place] ^= 1 << int(random.integers(8))
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match=rf"{file}: damaged.*train again"):
                Checkpoint(folder)
        file.write_bytes(content)
    Checkpoint(folder)


@pytest.mark.parametrize("file", ["manifest.json", "rank-0.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 8, 500, -1])
def test_a_truncated_file_is_refused(folder: Path, file: str, length: int) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"{file}: damaged.*train again"):
        Checkpoint(folder)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "rank-0.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"rank-0\.safetensors: missing or unreadable \(No such file"):
        Checkpoint(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"saved: no such checkpoint \(no manifest\.json\)"):
        Checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"nowhere: no such checkpoint"):
        Checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", '{"manifest": 1, "blake2b": 2}', '{"manifest": "{}"}'),
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_manifest_that_is_something_else_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged.*train again"):
        Checkpoint(folder)


def test_nothing_is_unpickled(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, never)
    fill(model)
    with torch.no_grad():
        pieces(model)[0].values.zero_()
    Checkpoint(folder).load_into(model)
    assert wrong(model) == []
    torch.save({"a": torch.zeros(1)}, folder / "rank-0.safetensors")
    with pytest.raises(CheckpointError, match=r"rank-0\.safetensors: damaged"):
        Checkpoint(folder)


# ---- interrupted


MOMENTS = ("half a file", "no manifest", "half a manifest", "no name")


def kill_at(rank: int, folder: Path, moment: str) -> None:
    """Save, and die at a moment of it."""
    model = make(schemes=SCHEMES[:2])
    fill(model)

    def die(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half(path: Path, content: Any) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(data[: len(data) // 2])
        die()

    real = saving.save_file
    if moment == "half a file" and rank == dist.get_world_size() - 1:

        def save_half(tensors: Any, file: Path) -> None:
            real(tensors, file)
            half(file, file.read_bytes())

        saving.save_file = save_half
    if rank == 0:
        if moment == "no manifest":
            saving.write_manifest = die  # type: ignore[assignment]
        if moment == "half a manifest":
            manifests.write_json = lambda value, path: half(path, str(value))
        if moment == "no name":
            Path.rename = die  # type: ignore[assignment,method-assign]
    save(folder / moment, model, {})


def save_again(rank: int, folder: Path) -> None:
    model = make(schemes=SCHEMES[:2])
    fill(model)
    for moment in MOMENTS:
        save(folder / moment, model, {})
        Checkpoint(folder / moment).load_into(model)


def killed(folder: Path, in_ranks: InRanks) -> None:
    for moment in MOMENTS:
        codes = in_ranks(2, kill_at, folder, moment, check=False)
        assert -signal.SIGKILL in codes, codes
        assert not (folder / moment).exists()
        assert list(folder.glob(f".{moment}.*.tmp"))
    in_ranks(1, save_again, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(MOMENTS)


def test_a_process_killed_in_a_save_leaves_no_checkpoint_and_the_next_save_works(
    run_ranks: Any, tmp_path: Path
) -> None:
    run_ranks(__file__, "killed", tmp_path)
    for moment in MOMENTS:
        saved = Checkpoint(tmp_path / moment)
        assert [path.name for path in sorted((tmp_path / moment).iterdir())] == [
            "manifest.json",
            "rank-0.safetensors",
        ]
        assert saved.tables().keys() == {"few/full", "user/full"}


def test_a_left_over_temporary_folder_is_removed(model: Any, tmp_path: Path) -> None:
    left = tmp_path / f".next.{'0a' * 8}.tmp"
    left.mkdir()
    (left / "rank-7.safetensors").write_bytes(b"left over")
    save(tmp_path / "next", model, {})
    assert not left.exists()
    assert sorted(path.name for path in (tmp_path / "next").iterdir()) == [
        "manifest.json",
        "rank-0.safetensors",
    ]
