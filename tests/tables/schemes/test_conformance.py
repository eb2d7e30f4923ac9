"""One suite over every scheme; a new scheme is a line of SCHEMES, and its paper's formula in `vector_by_formula`."""

import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec import KeyedJaggedTensor

import recsys_tables.schemes
from recsys_cython_ext import MISSING_ID, hash_rows, lookup_salt
from recsys_tables import (
    AutoDim,
    AutoSrh,
    ChineseRemainder,
    Coded,
    Compact,
    DeepHash,
    DeepLight,
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    Mde,
    MEmCom,
    MixedDimension,
    MixedRadix,
    MultiHash,
    OptEmbed,
    PathBased,
    Pep,
    QuotientRemainder,
    Robe,
    Shared,
    TensorTrain,
    Unified,
)
from recsys_tables.codes import Codes
from recsys_tables.config import DECLARATIONS, scheme_classes
from recsys_tables.engine.deep_hash import DeepHashEmbedding
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.lookup import lookup
from recsys_tables.out_of_range import in_range
from recsys_tables.remap import Remap
from recsys_tables.scheme import MAX_ROWS, Scheme, Table, describe, difference, unique_tables
from recsys_tables.schemes.declared import Declaration

N = 1000
KEPT = np.arange(N) % 3 == 0
KINDS: dict[str, dict[str, Any]] = {
    "single": {},
    "single_weighted": {"weighted": True},
    "sum": {"multivalued": True},
    "mean": {"pooling": "mean", "multivalued": True},
    "weighted_sum": {"multivalued": True, "weighted": True},
    "weighted_mean": {"pooling": "mean", "multivalued": True, "weighted": True},
    "sequence": {"pooling": "none", "multivalued": True},
    "weighted_sequence": {"pooling": "none", "multivalued": True, "weighted": True},
}


CODED_FEATURES = ("item", "other", "a", "b", *KINDS)


def row_of_chunk(feature: str, i: Any, chunk: int) -> Any:
    return (7 * i + 3 * chunk + len(feature)) % 61


def codes_of(num_chunks: int) -> Codes:
    """Return codes of every feature's ids below N, as `row_of_chunk` says."""
    ids = np.arange(N)
    rows = {
        feature: np.stack([row_of_chunk(feature, ids, chunk) for chunk in range(num_chunks)], axis=1)
        for feature in CODED_FEATURES
    }
    return Codes.build(dict.fromkeys(CODED_FEATURES, ids), rows, 61)


SCHEMES: dict[str, Scheme] = {
    "full": Full("item", N, 16),
    "hash": Hash("item", 97, 16),
    "hash_one_row": Hash("item", 1, 16),
    "multi_hash": MultiHash("item", 97, 16, 3),
    "qr_sum": QuotientRemainder("item", N, 31, 16, "sum"),
    "qr_concat": QuotientRemainder("item", N, 31, 16, "concat"),
    "qr_product": QuotientRemainder("item", N, 31, 16, "product"),
    "qr_divisor_1": QuotientRemainder("item", N, 1, 16),
    "qr_divisor_n": QuotientRemainder("item", N, N, 16),
    "mixed_radix_sum": MixedRadix("item", N, (9, 11), 16, "sum"),
    "mixed_radix_concat": MixedRadix("item", N, (9, 11, 3), 16, "concat"),
    "mixed_radix_product": MixedRadix("item", N, (9, 11), 16, "product"),
    "chinese_remainder_sum": ChineseRemainder("item", N, (13, 17, 19), 16, "sum"),
    "chinese_remainder_concat": ChineseRemainder("item", N, (37, 64), 16, "concat"),
    "chinese_remainder_product": ChineseRemainder("item", N, (37, 64), 16, "product"),
    "path_based": PathBased("item", N, 210, 16, 24),
    "path_based_one_path": PathBased("item", N, N, 16, 8),
    "mixed_dimension": MixedDimension("item", N, 8, 16),
    "mixed_dimension_full_width": MixedDimension("item", N, 16, 16),
    "unified": Unified("item", 211, 16, 4),
    "unified_one_chunk": Unified("item", 211, 16, 16),
    "unified_12_chunks": Unified("item", 211, 48, 4),
    "coded": Coded("item", codes_of(1), 16),
    "coded_2_chunks": Coded("item", codes_of(2), 16),
    "unified_2_tables": Unified("item", 211, 16, 4, num_tables=2),
    "frequency_split": FrequencySplit("item", 40, 31, 16),
    "frequency_split_no_hot": FrequencySplit("item", 0, 31, 16),
    "hash_embedding": HashEmbedding("item", 97, 301, 16),
    "hash_embedding_5": HashEmbedding("item", 97, 301, 16, num_hashes=5),
    "robe_quarter": Robe("item", 211, 16, 4),
    "robe_whole": Robe("item", 211, 16, 16, signs=False),
    "robe_3_ids_a_row": Robe("item", 61, 16, 48),
    "robe_2_ids_a_row_no_signs": Robe("item", 61, 16, 32, signs=False),
    "tensor_train": TensorTrain("item", N, (10, 11), 16, 3),
    "tensor_train_rank_1": TensorTrain("item", N, (10, 11), 12, 1),
    "mem_com": MEmCom("item", N, 97, 16),
    "compact": Compact("item", Remap.of(KEPT), 8, 16),
    "compact_default": Compact("item", Remap.of(KEPT), 16, 16, "default"),
    "compact_all_kept": Compact("item", Remap.of(KEPT | True), 12, 16),
    "compact_none_kept": Compact("item", Remap.of(KEPT & False), 8, 16),
    "compact_no_width": Compact("item", Remap.of(KEPT), 0, 16),
    "opt_embed": OptEmbed("item", N, 16),
    "opt_embed_by_id": OptEmbed("item", N, 16, threshold_by="id"),
    "pep": Pep("item", N, 16),
    "pep_by_column": Pep("item", N, 16, threshold_by="field_dimension"),
    "deep_light": DeepLight("item", N, 16),
    "auto_dim": AutoDim("item", N, 16),
    "auto_srh": AutoSrh("item", N, 16),
    "mde": Mde("item", N, 8, 16),
    "mde_full_width": Mde("item", N, 16, 16),
    "deep_hash": DeepHash("item", 16, 8, (12,)),
    "deep_hash_normal": DeepHash("item", 16, 6, (12, 10), "normal"),
}
EXTREMES = [MISSING_ID, -(2**63) + 1, -(2**53) - 1, -1, 0, 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=list(SCHEMES))
SERVABLE = {name: scheme for name, scheme in SCHEMES.items() if hasattr(scheme, "combine_numpy")}
every_servable_scheme = pytest.mark.parametrize("scheme", SERVABLE.values(), ids=list(SERVABLE))


def parameters_of(combine: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in combine.named_parameters()}


def ids_of(scheme: Scheme) -> st.SearchStrategy[np.ndarray]:
    """Draw lists of ids of the scheme's space with duplicates, empty ones too."""
    one = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES)
    if scheme.num_ids is not None:
        one = st.integers(0, scheme.num_ids - 1) | st.sampled_from([0, scheme.num_ids - 1])
    lists = st.lists(one, max_size=12) | one.map(lambda i: [i, i])
    return lists.map(lambda ids: np.array(ids, np.int64))


def weights(scheme: Scheme, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        t.name: random.uniform(-t.init_bound, t.init_bound, (t.num_embeddings, t.embedding_dim)).astype(
            np.float32
        )
        for t in scheme.tables()
    }


def engine_for(fields: list[Field]) -> EmbeddingEngine | DeepHashEmbedding:
    return (DeepHashEmbedding if isinstance(fields[0].scheme, DeepHash) else EmbeddingEngine)(fields)


def everything_of(scheme: Scheme, ids: Any) -> list[Any]:
    """Return rows and weights of every lookup, and aux, as nested lists: what an id is turned into."""
    aux = scheme.aux(ids)
    lookups = [
        (x.table, x.rows.tolist(), None if x.weights is None else x.weights.tolist())
        for x in scheme.rows(ids)
    ]
    return [*lookups, None if aux is None else aux.tolist()]


def test_every_scheme_is_in_this_suite() -> None:
    """Those that a configuration can declare, and those that none declares; `Shared` does as its owner."""
    here = {type(scheme) for scheme in SCHEMES.values()}
    assert {declaration.scheme_class for declaration in DECLARATIONS} <= here
    assert set(scheme_classes().values()) - {Shared} <= here


def test_every_file_of_a_scheme_is_in_the_union() -> None:
    """So that a scheme that nobody can declare is not taken for one that somebody can."""
    files = Path(recsys_tables.schemes.__file__).parent.glob("*.py")
    modules = [
        importlib.import_module(f"recsys_tables.schemes.{f.stem}") for f in files if f.stem != "__init__"
    ]
    declared = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Declaration) and "scheme" in value.model_fields
    }
    assert declared == set(DECLARATIONS)


@every_scheme
def test_is_a_frozen_picklable_value(scheme: Any) -> None:
    assert pickle.loads(pickle.dumps(scheme)) == scheme
    assert hash(scheme) == hash(dataclasses.replace(scheme))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.feature = "other"


@every_scheme
@settings(max_examples=30)
@given(data=st.data())
def test_rows_lie_in_their_tables_and_depend_on_the_id_alone(scheme: Scheme, data: st.DataObject) -> None:
    ids = data.draw(ids_of(scheme))
    before = ids.copy()
    tables = {table.name: table for table in scheme.tables()}
    lookups = scheme.rows(ids)
    assert np.array_equal(ids, before), "the caller's ids stay"
    assert {item.table for item in lookups} == set(tables)
    for item in lookups:
        assert item.rows.dtype == np.int64
        assert item.rows.ndim == 2
        assert len(item.rows) == len(ids)
        assert (item.rows >= 0).all()
        assert (item.rows < tables[item.table].num_embeddings).all()
        if item.weights is not None:
            assert (item.weights.dtype, item.weights.shape) == (np.float32, item.rows.shape)
    aux = scheme.aux(ids)
    assert aux is None or (aux.dtype == np.int64 and aux.ndim == 2 and len(aux) == len(ids))
    for position in range(len(ids)):
        alone = scheme.rows(ids[position : position + 1])
        assert all(np.array_equal(a.rows[0], b.rows[position]) for a, b in zip(alone, lookups, strict=True))
        if aux is not None:
            assert np.array_equal(scheme.aux(ids[position : position + 1])[0], aux[position])


@every_scheme
@settings(max_examples=30)
@given(data=st.data())
def test_numpy_and_torch_give_the_same_rows(scheme: Scheme, data: st.DataObject) -> None:
    ids = data.draw(ids_of(scheme))
    tensor = torch.from_numpy(ids)
    assert everything_of(scheme, ids) == everything_of(scheme, tensor)
    for item in scheme.rows(tensor):
        assert isinstance(item.rows, Tensor)
        assert item.rows.dtype == torch.int64
        assert item.weights is None or item.weights.dtype == torch.float32


@every_scheme
def test_an_empty_array_shows_the_structure(scheme: Scheme) -> None:
    def structure(ids: np.ndarray) -> list[Any]:
        aux = scheme.aux(ids)
        shapes = [(x.table, x.rows.shape[1], x.weights is None) for x in scheme.rows(ids)]
        return [*shapes, None if aux is None else aux.shape[1]]

    assert structure(np.empty(0, np.int64)) == structure(np.array([5, 7]))


@every_scheme
def test_combine_equals_combine_numpy_and_is_linear_if_it_says_so(scheme: Any) -> None:
    random = np.random.default_rng(3)
    dims = {table.name: table.embedding_dim for table in scheme.tables()}
    ids = np.arange(9)
    vectors = [random.normal(size=(9, dims[item.table])).astype(np.float32) for item in scheme.rows(ids)]
    masks = isinstance(scheme, OptEmbed | Pep | DeepLight)
    if masks:
        vectors[0][::2] *= 1e-2  # norms on both sides of the thresholds
        vectors[1:] = [np.ones((9, 4), np.float32) for _ in vectors[1:]]
    aux, module = scheme.aux(ids), scheme.combine().eval()
    with torch.no_grad():
        for value in itertools.chain(module.parameters(), module.buffers()) if masks else ():
            value.fill_(1)
        more = () if aux is None else (torch.from_numpy(aux),)
        out = module([torch.from_numpy(v) for v in vectors], *more).numpy()
        if hasattr(scheme, "combine_numpy"):
            in_numpy = scheme.combine_numpy(vectors, aux, **parameters_of(module))
            assert in_numpy.dtype == np.float32
            np.testing.assert_allclose(in_numpy, out, rtol=1e-6, atol=1e-6)
        assert out.shape == (9, scheme.embedding_dim)
        if aux is not None:
            assert not scheme.linear, "ids of a bag differ in aux, so they cannot be pooled first"
            return
        pooled = module([torch.from_numpy(v.sum(axis=0, keepdims=True)) for v in vectors]).numpy()
    assert np.allclose(pooled, out.sum(axis=0), rtol=1e-4, atol=1e-4) == scheme.linear


@every_servable_scheme
def test_lookup_is_rows_then_combine(scheme: Any) -> None:
    tables, ids = weights(scheme), np.array([3, 0, 3, 999])
    engine = EmbeddingEngine([Field(scheme)])
    parameters = parameters_of(engine.combiner.combines[0])
    vectors = lookup(scheme, tables, ids, parameters=parameters)
    assert vectors.shape == (4, scheme.embedding_dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[2], rtol=1e-6)
    assert lookup(scheme, tables, ids[:0], parameters=parameters).shape == (0, scheme.embedding_dim)
    np.testing.assert_allclose(vectors, engine.vectors_of("item", ids, tables), rtol=1e-6, atol=1e-6)


@every_scheme
def test_a_vector_starts_with_the_variance_of_a_full_table(scheme: Any) -> None:
    """An id's vector is U(±b) in a full table: mean 0, variance b²/3, whatever the scheme."""
    scheme = dataclasses.replace(scheme, init_bound=0.1)
    engine = engine_for([Field(scheme)])
    ids = np.random.default_rng(0).integers(0, N, 60)
    by_seed = []
    for seed in range(50):
        torch.manual_seed(seed)
        of_engine = engine.combiner if scheme.tables() else engine
        of_engine.combines[0] = scheme.combine().eval()  # in training a mixture of widths is drawn
        more = (weights(scheme, seed),) if scheme.tables() else ()
        by_seed.append(engine.vectors_of("item", ids, *more))
    vectors = np.stack(by_seed).astype(np.float64)
    alive = (vectors != 0).any(axis=0)
    assert alive.all() or isinstance(scheme, Compact | Mde)
    if not alive.any():
        return
    vectors = vectors[:, alive]
    assert vectors.mean() == pytest.approx(0, abs=0.005)
    assert vectors.var() == pytest.approx(0.1**2 / 3, rel=0.1)


@every_scheme
def test_description_is_json_and_a_difference_names_the_field(scheme: Any) -> None:
    saved = json.loads(json.dumps(describe(scheme)))
    assert saved == describe(scheme)
    assert difference(saved, scheme) is None
    for name, value in saved.items():
        larger = value + 1 if isinstance(value, int | float) else f"other {value}"
        assert f"feature 'item': {name} was {larger!r}" in str(difference(saved | {name: larger}, scheme))
    if scheme.grows and saved[scheme.grows]:
        assert difference(saved | {scheme.grows: saved[scheme.grows] - 1}, scheme) is None


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.grows])
def test_growing_moves_no_known_id(name: str) -> None:
    scheme: Any = SCHEMES[name]
    size = getattr(scheme, scheme.grows)
    larger = dataclasses.replace(scheme, **{scheme.grows: 2 * size + 3})
    ids = np.arange(size) if scheme.num_ids else np.concatenate([np.arange(size), EXTREMES[:4]])
    assert everything_of(scheme, ids) == everything_of(larger, ids)
    for before, after in zip(scheme.tables(), larger.tables(), strict=True):
        assert before.num_embeddings <= after.num_embeddings
        assert before == dataclasses.replace(after, num_embeddings=before.num_embeddings)
    assert describe(scheme) | {scheme.grows: 2 * size + 3} == describe(larger)
    shapes = [{k: v.shape for k, v in s.combine().state_dict().items()} for s in (scheme, larger)]
    assert shapes[0] == shapes[1], "dense parameters cannot be read into others"


# --- the engine against a dense oracle in float64 ---------------------------------------------------------

Tensors = dict[str, Tensor]


def vector_by_formula(scheme: Any, tables: Tensors, dense: Tensors, i: int) -> Tensor:
    """Compute e(i) as the paper has it: one id, Python integers, none of the scheme's own code."""
    t = {name.split("/")[1]: value for name, value in tables.items() if name.split("/")[0] in _owners(scheme)}

    def h(j: int, n: int, of: int = i) -> int:
        return int(hash_rows(np.array([of], np.int64), lookup_salt(scheme.feature, j), n)[0])

    match scheme:
        case Full():
            return t["full"][i]
        case Hash():
            return t["hash"][h(0, scheme.num_embeddings)]
        case MultiHash():
            return sum(t["multi_hash"][h(j, scheme.num_embeddings)] for j in range(scheme.num_hashes))
        case QuotientRemainder():
            q, r = divmod(i, scheme.divisor)
            return _operate(scheme.operation, [t["quotient"][q], t["remainder"][r]])
        case MixedRadix():
            return _operate(
                scheme.operation, [t[f"digit_{j}"][d] for j, d in enumerate(_digits(i, scheme.radices))]
            )
        case ChineseRemainder():
            return _operate(
                scheme.operation, [t[f"remainder_{j}"][i % m] for j, m in enumerate(scheme.moduli)]
            )
        case PathBased():
            p, r = divmod(i, scheme.divisor)
            hidden = torch.relu(t["remainder"][r] @ dense["hidden"][p] + dense["hidden_bias"][p])
            return hidden @ dense["out"][p] + dense["out_bias"][p]
        case MixedDimension():
            return dense["weight"] @ t["narrow"][i] if dense else t["narrow"][i]
        case Unified():
            n, chunks = scheme.num_embeddings, scheme.embedding_dim // scheme.chunk_dim
            return torch.cat([t[_sub_table(scheme, c)][h(c, n)] for c in range(chunks)])
        case Coded():
            if 0 <= i < N:
                rows = [row_of_chunk(scheme.feature, i, chunk) for chunk in range(scheme.codes.num_chunks)]
            else:
                rows = [int(row[0]) for row in scheme.codes.rows(np.array([i]), scheme.feature)]
            names = ["shared"] if len(rows) == 1 else [f"chunk_{chunk}" for chunk in range(len(rows))]
            return torch.cat([t[name][row] for name, row in zip(names, rows, strict=True)])
        case FrequencySplit():
            hot = 0 <= i < scheme.num_hot
            return t["split"][scheme.num_tail + i if hot else h(0, scheme.num_tail)]
        case HashEmbedding():
            p = 1 + t["importances"][h(scheme.num_hashes, scheme.num_importances)]
            return sum(p[j] * t["components"][h(j, scheme.num_embeddings)] for j in range(scheme.num_hashes))
        case Robe():
            array, z, d = t["robe"].flatten(), scheme.block_dim, scheme.embedding_dim
            blocks = []
            for c in range(max(1, d // z)):
                place, slot = divmod(i, max(1, z // d))
                start = h(c, scheme.num_embeddings, place) * z + slot * d
                sign = 1 - 2 * h(max(1, d // z) + c, 2) if scheme.signs else 1
                blocks.append(sign * array[start : start + min(z, d)])
            return torch.cat(blocks)
        case TensorTrain():
            r, (a, b, c) = scheme.rank, {16: (2, 2, 4), 12: (2, 2, 3)}[scheme.embedding_dim]
            d0, d1, d2 = _digits(i, scheme.radices)
            cores = (
                t["core_0"][d0, : a * r].view(a, r),
                t["core_1"][d1, : r * b * r].view(r, b, r),
                t["core_2"][d2, : r * c].view(r, c),
            )
            return torch.einsum("ax,xby,yc->abc", *cores).flatten()
        case MEmCom():
            return (1 + t["multipliers"].flatten()[i]) * t["hashed"][h(0, scheme.num_embeddings)]
        case Compact():
            row = i // 3 if scheme.remap.num_kept < N else i
            if scheme.width == 0 or scheme.remap.num_kept == 0:
                return torch.zeros(16, dtype=torch.float64)
            if scheme.remap.num_kept < N and i % 3:
                return (
                    t["compact"][334] if scheme.pruned == "default" else torch.zeros(16, dtype=torch.float64)
                )
            return torch.nn.functional.pad(t["compact"][row], (0, 16 - scheme.width))
        case OptEmbed():
            threshold = dense["threshold"][0] if scheme.threshold_by == "field" else t["threshold"][i, 0]
            return t["full"][i] * (t["full"][i].abs().sum() > threshold)
        case Pep():
            e, threshold = t["full"][i], torch.sigmoid(dense["threshold"])
            return torch.where(e.abs() > threshold, e - e.sign() * threshold, 0.0)
        case DeepLight():
            return t["full"][i]  # before the first batch of training
        case AutoDim():
            chosen, p = int(dense["choice"].argmax()), torch.softmax(dense["choice"], 0)
            return sum(p[n] * (torch.arange(16) < 4 * min(n, chosen)) for n in range(5)) * t["full"][i]
        case AutoSrh():
            scale = dense["scales"][6 * i // N]
            return t["full"][i] * torch.where(scale.abs() < 0.01, 0.0, scale)
        case Mde():
            return torch.nn.functional.pad(t["full"][i], (0, 16 - scheme.width))
        case DeepHash():
            shares = torch.tensor([(h(j, 2**23) + 0.5) / 2**23 for j in range(scheme.num_hashes)]).double()
            x = torch.special.ndtri(shares) if scheme.encoding == "normal" else 2 * shares - 1
            *hidden, last = (
                (dense[f"layers.{2 * n}.weight"], dense[f"layers.{2 * n}.bias"])
                for n in range(len(scheme.hidden_dims) + 1)
            )
            for weight, bias in hidden:
                x = weight @ x + bias
                x = x * torch.tanh(torch.log1p(torch.exp(x)))
            return last[0] @ x + last[1]
    raise NotImplementedError(scheme)


def _owners(scheme: Any) -> set[str]:
    return {scheme.feature, getattr(scheme, "table", scheme.feature)}


def _operate(operation: str, vectors: list[Tensor]) -> Tensor:
    if operation == "concat":
        return torch.cat(vectors)
    return functools.reduce({"sum": torch.add, "product": torch.mul}[operation], vectors)


def _digits(i: int, radices: tuple[int, ...]) -> list[int]:
    digits: list[int] = []
    for radix in reversed(radices):
        i, digit = divmod(i, radix)
        digits.insert(0, digit)
    return [i, *digits]


def _sub_table(scheme: Unified, chunk: int) -> str:
    return "shared" if scheme.num_tables == 1 else scheme.rows(np.array([0]))[chunk].table.split("/")[1]


def oracle(field: Field, tables: Tensors, dense: Tensors, bags: Any, factors: Any) -> Tensor:
    """Look up, weigh, sum and divide, one id at a time; a sequence is not summed."""
    rows = []
    for bag, bag_factors in zip(bags, factors, strict=True):
        total = torch.zeros(field.scheme.embedding_dim, dtype=torch.float64)
        vectors = [
            w * vector_by_formula(field.scheme, tables, dense, i)
            for i, w in zip(bag, bag_factors, strict=True)
        ]
        if field.pooling == "none":
            rows += vectors
            continue
        total = sum(vectors, total)
        rows.append(total / (sum(bag_factors) or 1) if field.averages else total)
    return torch.stack(rows) if rows else torch.zeros(0, field.scheme.embedding_dim, dtype=torch.float64)


BAGS = [[3, 3, 999], [], [0], [7, 14, 21, 28, 3], []]
ONES = [[5], [0], [999], [5], [41]]


def kjt_of(fields: list[Field], bags: dict[str, Any], factors: dict[str, Any]) -> KeyedJaggedTensor:
    def flat(values: dict[str, Any]) -> list[Any]:
        return [x for field in fields for bag in values[field.feature] for x in bag]

    return KeyedJaggedTensor.from_lengths_sync(
        keys=[field.feature for field in fields],
        values=torch.tensor(flat(bags), dtype=torch.int64),
        lengths=torch.tensor([len(bag) for f in fields for bag in bags[f.feature]], dtype=torch.int32),
        weights=torch.tensor(flat(factors)) if any(field.weighted for field in fields) else None,
    )


def assert_equals_the_oracle(fields: list[Field], bags: dict[str, Any]) -> None:
    """Check values, and gradients of tables and of the combines' parameters."""
    random = np.random.default_rng(1)
    torch.manual_seed(1)
    factors = {
        f.feature: [
            [float(x) for x in (random.uniform(0.5, 2, len(bag)) if f.weighted else np.ones(len(bag)))]
            for bag in bags[f.feature]
        ]
        for f in fields
    }
    engine = engine_for(fields).eval()  # a supernet draws widths in training
    exact: dict[str, Tensor] = {}
    for name, parameter in engine.named_parameters():
        torch.nn.init.normal_(parameter)
        exact[name] = parameter.detach().double().requires_grad_()
    tables = {n.split("embedding_bags.")[1][:-7]: p for n, p in exact.items() if "embedding_bags." in n}

    out = engine(kjt_of(fields, bags, factors))
    total = torch.zeros(())
    expected_total = sum((0 * p.sum() for p in exact.values()), torch.zeros((), dtype=torch.float64))
    for position, field in enumerate(fields):
        prefix = f"combines.{position}."
        dense = {name.split(prefix)[1]: p for name, p in exact.items() if prefix in name}
        expected = oracle(field, tables, dense, bags[field.feature], factors[field.feature])
        got = out.sequences[field.feature].values() if field.pooling == "none" else out[field.feature]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
        probe = torch.from_numpy(random.normal(size=tuple(got.shape)))
        total = total + (got * probe.float()).sum()
        expected_total = expected_total + (expected * probe).sum()
    total.backward()
    expected_total.backward()
    for name, parameter in engine.named_parameters():
        expected_grad = exact[name].grad
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected_grad = torch.zeros_like(exact[name]) if expected_grad is None else expected_grad
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
@every_scheme
def test_engine_equals_a_dense_oracle(scheme: Scheme, kind: str) -> None:
    field = Field(scheme, **KINDS[kind])
    bags = BAGS if field.multivalued else ONES
    assert_equals_the_oracle([field], {"item": bags})


@every_scheme
def test_fields_of_every_kind_in_one_engine(scheme: Any) -> None:
    """Groups of several fields, and schemes that share a table between pooled and unpooled fields."""
    fields = [Field(dataclasses.replace(scheme, feature=kind), **options) for kind, options in KINDS.items()]
    assert_equals_the_oracle(fields, {f.feature: BAGS if f.multivalued else ONES for f in fields})


@pytest.mark.parametrize("bags", [[], [[], [], []]], ids=["empty_batch", "empty_bags"])
@every_scheme
def test_engine_takes_empty_batches(scheme: Any, bags: Any) -> None:
    kinds = {kind: options for kind, options in KINDS.items() if "multivalued" in options}
    fields = [Field(dataclasses.replace(scheme, feature=kind), **options) for kind, options in kinds.items()]
    assert_equals_the_oracle(fields, dict.fromkeys(kinds, bags))


@pytest.mark.parametrize("operation", ["sum", "concat", "product"])
@settings(max_examples=40)
@given(num_ids=st.integers(1, 3000), data=st.data())
def test_quotient_and_remainder_name_every_id_once(operation: Any, num_ids: int, data: st.DataObject) -> None:
    divisor = data.draw(st.integers(1, num_ids))
    scheme = QuotientRemainder("item", num_ids, divisor, 16, operation)
    quotient, remainder = scheme.rows(np.arange(num_ids))
    pairs = np.concatenate([quotient.rows, remainder.rows], axis=1)
    assert len(np.unique(pairs, axis=0)) == num_ids
    assert [t.num_embeddings for t in scheme.tables()] == [quotient.rows.max() + 1, remainder.rows.max() + 1]


def test_quotients_beyond_float_precision() -> None:
    """Float division aliases ids from 2^24 (float32) or 2^53 (float64) on."""
    scheme = QuotientRemainder("item", 2**60, 2**30 + 1, 4)
    ids = np.array([2**53 + 1, 2**60 - 1, 2**24 + 1])
    quotient, remainder = scheme.rows(ids)
    exact = [divmod(int(i), 2**30 + 1) for i in ids]
    assert [*zip(quotient.rows[:, 0].tolist(), remainder.rows[:, 0].tolist(), strict=True)] == exact


def test_hashed_rows_come_from_the_name_and_not_from_the_order() -> None:
    ids = np.arange(5000)

    def rows(scheme: Scheme) -> list[np.ndarray]:
        return [item.rows for item in scheme.rows(ids)]

    a, b = Unified("a", 64, 16, 4), Unified("b", 64, 16, 4)
    before = rows(a)
    assert all(np.array_equal(x, y) for x, y in zip(before, rows(Unified("a", 64, 16, 4)), strict=True))
    others = [
        Hash("c", 64, 16),
        HashEmbedding("d", 64, 64, 16),
        Robe("e", 64, 16, 4),
        MEmCom("g", 5000, 64, 16),
    ]
    every = [*before, *rows(b), *(x for other in others for x in rows(other) if x.max() < 64)]
    for x, y in itertools.combinations(every, 2):
        assert (x == y).mean() == pytest.approx(1 / 64, abs=0.01), "two salts, two independent hashes"
    assert np.array_equal(before[0], rows(Hash("a", 64, 16))[0]), "lookup 0 of a feature has one salt"
    assert len({lookup_salt("a", j) for j in range(100)} | {lookup_salt("b", j) for j in range(100)}) == 200


def test_chunks_stay_in_numeric_order_beyond_ten() -> None:
    scheme = Unified("item", 211, 48, 4)
    one_row = {"unified/shared": np.arange(211, dtype=np.float32).repeat(4).reshape(211, 4)}
    ids = np.array([1, 2, 3])
    expected = np.stack([item.rows[:, 0] for item in scheme.rows(ids)], axis=1).repeat(4, axis=1)
    assert np.array_equal(lookup(scheme, one_row, ids), expected)

    engine = EmbeddingEngine([Field(scheme)])
    with torch.no_grad():
        next(engine.parameters()).copy_(torch.from_numpy(one_row["unified/shared"]))
    kjt = KeyedJaggedTensor.from_lengths_sync(
        ["item"], torch.from_numpy(ids), torch.ones(3, dtype=torch.int32)
    )
    assert np.array_equal(engine(kjt).values().detach().numpy(), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Full("f", 10, 6), r"'f/full': embedding_dim 6 is not a positive multiple of 4.*use 8"),
        (lambda: Full("f", 10, 0), r"embedding_dim 0 is not a positive multiple of 4.*use 4"),
        (lambda: Full("f", 0, 8), r"'f/full': num_embeddings 0 is outside 1\.\.2\^31-1"),
        (lambda: Full("f", 2**31, 8), r"num_embeddings 2147483648 is outside"),
        (lambda: Full("a.b", 10, 8), r"'a\.b/full': a name must be non-empty and hold no '\.'"),
        (lambda: Hash("f", 0, 8), r"'f/hash': num_embeddings 0"),
        (lambda: Hash("f", 2**31, 8), r"'f/hash': num_embeddings 2147483648"),
        (lambda: Unified("f", 10, 8, 2), r"'unified/shared': embedding_dim 2"),
        (lambda: Unified("f", 10, 8, 3), r"feature 'f': embedding_dim 8 is not a whole number of chunks"),
        (lambda: Unified("f", 10, 8, 0), r"chunks of chunk_dim 0"),
        (lambda: QuotientRemainder("f", 10, 3, 12, "concat"), r"'f/quotient': embedding_dim 6"),
        (lambda: QuotientRemainder("f", 10, 0, 8), r"feature 'f': divisor 0 is outside 1\.\.10"),
        (lambda: QuotientRemainder("f", 10, 11, 8), r"divisor 11 is outside 1\.\.10"),
    ],
)
def test_tables_that_cannot_be_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().tables()


def test_the_largest_table_is_allowed() -> None:
    assert Table("t", MAX_ROWS - 1, 4, 0.1).parameter_bytes == 16 * (2**31 - 1)


def test_features_that_share_a_table_must_agree() -> None:
    a, b = Unified("a", 10, 8, 4), Unified("b", 10, 16, 4)
    assert unique_tables([a, b]) == a.tables()
    with pytest.raises(ValueError, match=r"'unified/shared' is declared as .* by feature 'a' and as .* 'c'"):
        unique_tables([a, Unified("c", 11, 8, 4)])


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_ids_outside_a_dense_space(kind: Any) -> None:
    scheme = SCHEMES["qr_sum"]
    in_range(scheme, kind([0, 999]), "error", None)
    in_range(SCHEMES["hash"], kind([-1, 2**63 - 1]), "error", None)
    for bad in (-1, N, 2**53 + 1, MISSING_ID):
        with pytest.raises(ValueError, match=rf"'item': id {bad} at position 2 is outside 0\.\.999"):
            in_range(scheme, kind([4, 5, bad, bad]), "error", None)
    with pytest.raises(ValueError, match="at position 0 is outside"):
        lookup(scheme, weights(scheme), np.array([-1]))


def test_what_serving_uses_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "schemes.pickle").write_bytes(pickle.dumps(list(SCHEMES.values())))
    code = """
import pickle, sys
import numpy as np
import recsys_tables, recsys_tables.bytes, recsys_tables.config, recsys_tables.planning.plan
from recsys_tables.lookup import lookup
from recsys_tables.scheme import describe
ids = np.array([1, 2])
for scheme in pickle.load(open(sys.argv[1], "rb")):
    tables = {t.name: np.ones((t.num_embeddings, t.embedding_dim), np.float32) for t in scheme.tables()}
    scheme.rows(ids), scheme.aux(ids), describe(scheme)
    if hasattr(scheme, "combine_numpy") and type(scheme).__name__ not in ("MixedDimension", "PathBased"):
        lookup(scheme, tables, ids)  # these two need trained parameters
print("torch" in sys.modules)
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "schemes.pickle")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
