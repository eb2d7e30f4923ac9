"""A vocabulary of fingerprints gives known ids the codes of an exact one, and keeps none of them."""

import json
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recsys_cython_ext import MISSING_ID, string_ids
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import read_manifest, write_manifest
from recsys_cython_ext.static_function import static_function_bytes
from recsys_cython_ext.vocabulary import table_bytes
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.encoding.vocabulary import vocabulary_bytes, vocabulary_of
from recsys_pipelines.features import MISSING_CODE, UNKNOWN_CODE, Categorical, FeatureFitter, Features
from recsys_pipelines.features.features import SavedFeatures
from recsys_pipelines.inspection.drift import compare_sets
from recsys_pipelines.inspection.inspect import inspect
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import ManifestError
from recsys_pipelines.shards import read_arrays, write_arrays

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
IDS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, -(2**53) - 1, 2**63 - 1, MISSING_ID, MISSING_ID + 1]),
    st.integers(-(2**63), 2**63 - 1),
)


def parsed(*features):
    return CONFIGS.validate_python([{"kind": "categorical", "names": ["c"], **f} for f in features])


def ids(values):
    return pa.array(values, pa.int64())


def fit(values, **options):
    fitter = FeatureFitter(parsed(options))
    fitter.add(pa.table({"c": ids(values)}))
    return fitter.fit()


def codes(features, values):
    return features.encode(pa.table({"c": ids(values)}))["c"].to_pylist()


def both(values, **options):
    """The same feature with an exact vocabulary, and with one of fingerprints."""
    return fit(values, **options), fit(values, form="fingerprint", **options)


# Codes


@given(
    st.lists(IDS, max_size=40),
    st.lists(IDS, max_size=20),
    st.integers(1, 3),
    st.sampled_from(["code", "hash"]),
)
def test_known_ids_have_the_codes_of_an_exact_vocabulary(train, others, min_count, unknown):
    exact, small = both(train, min_count=min_count, unknown=unknown)
    (feature,), (reference,) = small.categorical, exact.categorical
    assert (feature.num_codes, feature.full_codes) == (reference.num_codes, reference.full_codes)
    assert feature.columns == reference.columns
    rows = train + others
    expected, encoded = codes(exact, rows), codes(small, rows)
    known = set(reference.ids.tolist())
    for value, code, actual in zip(rows, expected, encoded, strict=True):
        if value in known or value == MISSING_ID:
            assert actual == code
        else:  # is as unknown as before, or passes for an id that is known
            assert actual == code or 2 <= actual < feature.num_codes
    assert (MISSING_CODE in encoded) == (MISSING_ID in rows)
    with TemporaryDirectory() as folder:
        small.save(folder)
        again = Features.load(folder)
    assert codes(again, rows) == encoded
    assert again.categorical[0].to_dict() == feature.to_dict()
    assert again.categorical[0].vocabulary_bytes == feature.vocabulary_bytes


@pytest.mark.parametrize("unknown", ["code", "hash"])
def test_one_unknown_id_in_256_passes_for_a_known_one(unknown):
    random = np.random.default_rng(0)
    inside, outside = random.integers(-(2**63), 2**63, 5_000), random.integers(-(2**63), 2**63, 400_000)
    (feature,) = fit(inside, form="fingerprint", unknown=unknown).categorical
    encoded = feature.encode(pa.table({"c": outside}))["c"].to_numpy()
    passing = ~feature.is_unknown(encoded)
    assert abs(passing.mean() - 1 / 256) < 5 * (1 / 256 / len(outside)) ** 0.5
    assert (encoded[passing] >= 2).all()
    assert (encoded[passing] < feature.num_codes).all()
    assert np.array_equal(encoded, feature.encode(pa.table({"c": outside}))["c"].to_numpy())


def test_nothing_is_known_to_an_empty_vocabulary():
    (feature,) = fit([7, 8, MISSING_ID], form="fingerprint", min_count=2).categorical
    assert feature.num_codes == 2
    random = np.random.default_rng(0).integers(-(2**63), 2**63, 10_000)
    assert set(feature.encode(pa.table({"c": random}))["c"].to_pylist()) == {UNKNOWN_CODE}


def test_a_worker_on_ray_gets_the_same(tmp_path):
    features = fit(range(1000), form="fingerprint")
    again = pickle.loads(pickle.dumps(features))
    assert codes(again, range(3000)) == codes(features, range(3000))


# Bytes


def test_it_counts_its_own_bytes_and_a_full_table_those_of_an_exact_one():
    values = np.arange(30_000) ** 3
    exact, small = (features.categorical[0] for features in both(values))
    assert static_function_bytes(30_000, 30_000, 8) <= small.vocabulary_bytes < 0.26 * exact.vocabulary_bytes
    assert small.full_vocabulary_bytes == exact.full_vocabulary_bytes == table_bytes(30_000)
    (rare,) = fit([*values, *values[:9]], form="fingerprint", min_count=2).categorical
    assert rare.full_vocabulary_bytes == table_bytes(30_000)
    assert rare.vocabulary_bytes < 100


@settings(deadline=None)
@given(st.integers(0, 3_000))
def test_a_count_before_it_is_built_is_the_least_that_it_takes(num_ids):
    built = vocabulary_of(np.arange(num_ids) * 7919, "fingerprint")
    least = vocabulary_bytes(num_ids, "fingerprint")
    assert len(built) == num_ids
    assert least <= built.nbytes <= 2 * least
    assert vocabulary_bytes(num_ids, "exact") == vocabulary_of(np.arange(num_ids), "exact").nbytes


# Files


def test_ids_are_in_no_file_and_an_exact_vocabulary_is_saved_as_ever(tmp_path):
    exact, small = both([5, 6, 6, 2**60])
    exact.save(tmp_path / "exact")
    small.save(tmp_path / "small")
    assert list(read_arrays(tmp_path / "small" / "arrays.npz")) == ["0.slots"]
    assert (2**60).to_bytes(8, "little") not in (tmp_path / "small" / "arrays.npz").read_bytes()
    (entry,) = json.loads((tmp_path / "exact" / "features.json").read_text())["features"]
    assert entry.keys() == {
        *("kind", "name", "encoding", "multivalued", "pooling", "unknown", "full_codes", "weighted", "like")
    }
    with pytest.raises(ValueError, match="feature 'c': `form: fingerprint` keeps no ids"):
        _ = Features.load(tmp_path / "small").categorical[0].ids


def shape_with(**changes):
    return lambda entry, arrays: entry["shape"].update(changes)


def slots_as(change):
    return lambda entry, arrays: arrays.update({"0.slots": change(arrays["0.slots"])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shape_with(num_segments=10**6), "slots of 15 bits are not in"),
        (shape_with(num_values=101), "a vocabulary of 100 ids has as many values"),
        (shape_with(num_keys=99), "a vocabulary of 99 ids has as many values"),
        (shape_with(num_values=10**6), "bits are not in"),
        (shape_with(fingerprint_bits=0), "bits are not in"),
        (shape_with(fingerprint_bits=7), "shape.fingerprint_bits: Input should be 0 or 8"),
        (shape_with(seed="0"), "shape.seed: Input should be a valid integer"),
        (shape_with(segment_bits=60), "shape.segment_bits: Input should be less than"),
        (shape_with(extra=1), "shape.extra: Extra inputs"),
        (lambda entry, arrays: entry.update(shape=None), "shape: Input should be"),
        (lambda entry, arrays: entry.pop("shape"), r"\['form', 'slots'\] describe no vocabulary"),
        (lambda entry, arrays: entry.update(form="exact"), "describe no vocabulary"),
        (lambda entry, arrays: entry.update(form=["x"]), "describe no vocabulary"),
        (lambda entry, arrays: [entry.pop("form"), entry.pop("shape")], "describe no vocabulary"),
        (lambda entry, arrays: arrays.clear(), "describe no vocabulary"),
        (lambda entry, arrays: arrays.update({"0.ids": np.arange(3)}), "describe no vocabulary"),
        (slots_as(lambda slots: slots[:-1]), "bits are not in"),
        (slots_as(lambda slots: slots.view(np.int8)), "slots must be uint8"),
        (slots_as(lambda slots: slots.reshape(1, -1)), r"slots must be uint8 \[n\], got uint8 \[1, "),
    ],
)
def test_what_no_vocabulary_writes_is_refused(tmp_path, damage, message):
    """Under right checksums, as only ill will writes it."""
    fit(range(100), form="fingerprint").save(tmp_path)
    saved = read_manifest(tmp_path / "features.json", SavedFeatures, {}, "")
    arrays, entry = read_arrays(tmp_path / "arrays.npz"), dict(saved.features[0])
    damage(entry, arrays)
    write_arrays(arrays.items(), tmp_path / "arrays.npz")
    changed = {"features": [entry], "arrays_xxh64": file_digest(tmp_path / "arrays.npz")}
    write_manifest(saved.model_copy(update=changed), tmp_path / "features.json")
    with pytest.raises(
        ValueError, match=f"{tmp_path}: the fitted features are missing or damaged .*{message}"
    ):
        Features.load(tmp_path)


def test_flipped_bits_are_refused(tmp_path):
    fit(range(100), form="fingerprint").save(tmp_path)
    for name in ("arrays.npz", "features.json"):
        whole = (tmp_path / name).read_bytes()
        for place in range(0, len(whole), 41):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            (tmp_path / name).write_bytes(flipped)
            with pytest.raises(ValueError, match=r"damaged|checksum|version"):
                Features.load(tmp_path)
        (tmp_path / name).write_bytes(whole)


# Declarations


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"form": "fingerprint", "encoding": "hash"}, "`form: fingerprint` needs a vocabulary to hold: set"),
        (
            {"vocabulary": {"form": "fingerprint"}},
            "names a file of values: write what it maps, such as `form",
        ),
        ({"form": "bloom"}, "Input should be 'exact' or 'fingerprint'"),
        (
            {"kind": "sequence", "names": ["s"], "like": "c", "form": "fingerprint"},
            "leave out encoding, form, min_count and unknown",
        ),
        ({"kind": "date", "parts": ["hour"], "form": "fingerprint"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_declared(declared, message):
    with pytest.raises(ValidationError, match=message):
        parsed(declared)


@pytest.mark.parametrize("declared", [{}, {"form": "exact"}])
def test_an_exact_vocabulary_is_declared_as_ever(declared):
    (feature,) = parsed(declared)
    assert "form" not in feature.model_dump(mode="json")
    assert "form" not in feature.model_dump(mode="json", exclude_unset=True)
    (small,) = parsed({"form": "fingerprint"})
    assert small.model_dump(mode="json", exclude_unset=True)["form"] == "fingerprint"
    assert feature == parsed({})[0] != small


# Preparation, requests and inspection

FEATURES = [
    {"names": ["c"], "form": "fingerprint", "min_count": 2},
    {"names": ["n"], "form": "fingerprint", "unknown": "hash"},
    {"names": ["tags"], "multivalued": True, "form": "fingerprint"},
    {"kind": "cross", "name": "cn", "columns": ["c", "n"], "form": "fingerprint"},
    {"kind": "tokens", "columns": ["text"], "form": "fingerprint"},
    {"kind": "prefixes", "names": ["begin"], "columns": ["text"], "lengths": [1, 3], "form": "fingerprint"},
    {"kind": "sequence", "name": "seen", "column": "n", "length": 3, "like": "n"},
    {"kind": "sequence", "name": "alone", "column": "c", "length": 3, "form": "fingerprint"},
]
FEATURES = [{"kind": "categorical", **feature} for feature in FEATURES]


def log(first=0, rows=400):
    random = np.random.default_rng(first)
    return pa.table(
        {
            "label": random.integers(0, 2, rows),
            "u": random.integers(0, 9, rows),
            "t": first + np.arange(rows),
            "c": [f"c{value}" if value else None for value in random.zipf(1.4, rows) % 90],
            "n": random.zipf(1.3, rows) % 2**55,
            "tags": [random.integers(0, 20, k).tolist() for k in random.integers(0, 4, rows)],
            "text": random.choice(["red shoes", "blue hat", "green coat"], rows),
        }
    )


def declared(path, **options):
    options = {"user": "u", "time": "t", "split": {"by": "time"}} | options
    return DataConfig.model_validate({"source": "table", "path": path, **options})


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """One log prepared in either form: exact, fingerprint."""
    root = tmp_path_factory.mktemp("sets")
    pq.write_table(log(), root / "log.parquet")
    exact = [{key: value for key, value in feature.items() if key != "form"} for feature in FEATURES]
    return [
        prepare(declared(root / "log.parquet"), CONFIGS.validate_python(features), root / "out")
        for features in (exact, FEATURES)
    ]


def test_training_rows_are_encoded_as_by_exact_vocabularies(sets):
    exact, small = (prepared.table("train").to_pydict() for prepared in sets)
    unknown = {"c", "alone"}  # those with ids below their minimum count: the others know all of training
    assert {name: exact[name] for name in exact if name not in unknown} == {
        name: small[name] for name in small if name not in unknown
    }
    differ = sum(a != b for a, b in zip(exact["c"], small["c"], strict=True))
    assert differ <= 5
    sizes = [prepared.manifest.vocabularies for prepared in sets]
    for name, size in sizes[1].items():
        assert (size.num_codes, size.full_codes) == (sizes[0][name].num_codes, sizes[0][name].full_codes)
        assert size.vocabulary_bytes == 0 if name == "seen" else size.vocabulary_bytes > 0
    assert sizes[1]["n"].vocabulary_bytes < sizes[0]["n"].vocabulary_bytes / 2


def test_a_request_is_encoded_as_a_row_of_the_log(sets):
    features = sets[1].features()
    rows = [
        {**row, "seen": [1, 2, row["n"]][: k % 4], "alone": [row["c"]]}
        for k, row in enumerate(log(50_000, 40).to_pylist())
    ]
    batch = features.transform(rows)
    for k, row in enumerate(rows):
        assert features.transform(row).to_pylist() == batch.slice(k, 1).to_pylist()
    by_name = {feature.name: feature for feature in features.categorical}
    assert by_name["seen"].vocabulary is by_name["n"].vocabulary
    ids_of_texts = string_ids(pa.array([row["c"] for row in rows]))
    assert batch["c"].to_pylist() == by_name["c"].encode_ids(ids_of_texts).tolist()


def test_inspection_finds_ids_that_no_vocabulary_keeps(sets):
    exact, small = map(inspect, sets)
    for reference, feature in zip(exact.categorical, small.categorical, strict=True):
        assert (reference.form, feature.form) == ("exact", "fingerprint")
        assert [top.id for top in feature.top] == [top.id for top in reference.top]
        assert (feature.ids, feature.skew) == (reference.ids, reference.skew)


def test_drift_counts_ids_exactly_in_either_form(sets):
    for a, b in (sets, reversed(sets)):
        assert all(
            feature.psi == 0 and feature.new_ids in (None, 0) for feature in compare_sets(a, b).features
        )


def test_a_day_cannot_be_appended(sets, tmp_path):
    pq.write_table(log(400), tmp_path / "day.parquet")
    with pytest.raises(
        ManifestError, match="feature 'c': `form: fingerprint` keeps no ids, so its vocabulary cannot grow"
    ):
        prepare(
            declared(tmp_path / "day.parquet"),
            CONFIGS.validate_python(FEATURES),
            sets[1].path.parent,
            base=sets[1],
        )


def test_a_fixed_vocabulary_can_be_of_fingerprints_and_takes_new_days(tmp_path):
    (tmp_path / "v.txt").write_text("".join(f"c{n}\n" for n in range(50, 0, -1)))
    features = parsed({"form": "fingerprint", "vocabulary": str(tmp_path / "v.txt")})
    for day in (0, 400):
        pq.write_table(log(day), tmp_path / f"{day}.parquet")
    options = {"split": {"by": "order"}}
    first = prepare(declared(tmp_path / "0.parquet", **options), features, tmp_path / "out")
    both_days = prepare(declared(tmp_path / "400.parquet", **options), features, tmp_path / "out", base=first)
    feature = both_days.features().categorical[0]
    assert isinstance(feature, Categorical)
    assert feature.encode_ids(string_ids(pa.array(["c50", "c1", None]))).tolist() == [2, 51, 0]
    assert [top.id for top in inspect(both_days).categorical[0].top][:1] == string_ids(
        pa.array(["c1"])
    ).tolist()


def test_nearly_unknown_values_are_told_as_ever(tmp_path):
    Path(tmp_path / "v.txt").write_text("x\ny\n")
    features = parsed({"form": "fingerprint", "vocabulary": str(tmp_path / "v.txt")})
    pq.write_table(log(), tmp_path / "log.parquet")
    (doubt,) = prepare(declared(tmp_path / "log.parquet"), features, tmp_path / "out").manifest.doubts
    assert "feature 'c'" in doubt
    assert "unknown to the vocabulary" in doubt
