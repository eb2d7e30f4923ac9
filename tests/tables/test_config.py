"""Declared tables: what is refused, and how it is said."""

from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from recsys_tables.config import TablesConfig

ALLOCATED = ("hash", "multi_hash", "hash_embedding", "mem_com", "frequency_split")
SCHEMES = [
    str(get_args(model.model_fields["scheme"].annotation)[0]) for model in get_args(get_args(TablesConfig)[0])
]


def parse(**keys: Any) -> Any:
    return TypeAdapter(TablesConfig).validate_python({"budget": "10%"} | keys)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_without_an_allocation_says_which_have_one(scheme: str) -> None:
    if scheme in ALLOCATED:
        assert parse(scheme=scheme).allocation == "proportional"
        assert parse(scheme=scheme, allocation="sqrt").allocation == "sqrt"
        with pytest.raises(ValidationError, match="Input should be 'proportional' or 'sqrt'"):
            parse(scheme=scheme, allocation="log")
        return
    with pytest.raises(ValidationError) as caught:
        parse(scheme=scheme, allocation="sqrt")
    (error,) = caught.value.errors()
    assert error["msg"] == (
        f"Value error, the scheme {scheme!r} deals its rows in one way only; "
        "`allocation` is a key of frequency_split, hash, hash_embedding, mem_com, multi_hash"
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_every_scheme_checks(scheme: str) -> None:
    """Full, coded and compact tables, and what learns compact ones, need no budget: their size is given."""
    learners = ("opt_embed", "pep", "deep_light", "auto_dim", "auto_srh", "mde")
    required = {"compact": {"widths": {"f": 8}}, "coded": {"codes": "codes"}}.get(scheme, {})
    if scheme not in ("full", "coded", "compact", *learners):
        with pytest.raises(ValidationError, match="a budget is a text"):
            parse(scheme=scheme, budget=None)
    for key, value, message in [
        ("embedding_dim", 6, "multiple of 4"),
        ("embedding_dim", 0, "greater than or equal to 4"),
        ("init_bound", 0, "greater than 0"),
        ("chunks", 1, "Extra inputs are not permitted"),
    ]:
        with pytest.raises(ValidationError, match=message):
            parse(scheme=scheme, **required, **{key: value})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scheme": "multi_hash", "num_hashes": 0}, "greater than or equal to 1"),
        ({"scheme": "hash_embedding", "importances_per_row": 0}, "greater than 0"),
        (
            {"scheme": "unified", "chunk_dim": 12},
            "embedding_dim 16 is not a whole number of chunks of chunk_dim 12",
        ),
        ({"scheme": "unified", "num_tables": 0}, "greater than or equal to 1"),
        ({"scheme": "robe", "block_dim": 12}, "neither of block_dim 12 and embedding_dim 16 is a multiple"),
        (
            {"scheme": "mixed_radix", "operation": "concat"},
            "a multiple of 12, 3 parts of a multiple of 4 each, not 16",
        ),
        (
            {"scheme": "quotient_remainder", "operation": "concat", "embedding_dim": 12},
            "a multiple of 8, 2 parts of a multiple of 4 each, not 12",
        ),
        ({"scheme": "chinese_remainder", "num_tables": 1}, "greater than or equal to 2"),
        ({"scheme": "mixed_dimension", "alpha": -0.1}, "greater than or equal to 0"),
        ({"scheme": "tensor_train", "max_rank": 0}, "greater than or equal to 1"),
        (
            {"scheme": "compact", "widths": {"a": 4, "b": 6}},
            "widths: feature 'b': width 6 is none of 0, 4, 8, … up to embedding_dim 16",
        ),
        ({"scheme": "compact", "widths": {"a": 20}}, "'a': width 20 is none of"),
        ({"scheme": "compact", "widths": {"a": -4}}, "'a': width -4 is none of"),
        ({"scheme": "compact", "widths": {"a": "wide"}}, "valid integer"),
        ({"scheme": "opt_embed", "alpha": -1}, "greater than or equal to 0"),
        ({"scheme": "opt_embed", "threshold_lr": 0}, "greater than 0"),
        (
            {"scheme": "opt_embed", "threshold_by": "id", "threshold_lr": 0.1},
            "threshold_lr is for `threshold_by: field`; thresholds by id are trained with training.table_lr",
        ),
        ({"scheme": "pep", "threshold_by": "id"}, "Input should be 'field' or 'field_dimension'"),
        ({"scheme": "pep", "threshold_decay": -1}, "greater than or equal to 0"),
        ({"scheme": "deep_light", "sparsity": 0}, "greater than 0"),
        ({"scheme": "deep_light", "sparsity": 1}, "less than 1"),
        ({"scheme": "deep_light", "damping": 1}, "less than 1"),
        ({"scheme": "auto_dim", "annealing": -1}, "greater than or equal to 0"),
        ({"scheme": "auto_srh", "groups": 0}, "greater than or equal to 1"),
        ({"scheme": "mde", "alpha": 2}, "less than or equal to 1"),
        ({"scheme": "compact"}, "Field required"),
        ({"scheme": "compact", "widths": {}, "unknown": "mean"}, "Input should be 'default' or 'zero'"),
    ],
)
def test_sizes_that_no_table_can_have(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(**keys)


def test_widths_that_fit_are_taken() -> None:
    assert parse(scheme="robe", block_dim=32).block_dim == 32
    assert parse(scheme="mixed_radix", operation="concat", embedding_dim=24).operands == 3
    assert parse(scheme="compact", embedding_dim=8, widths={"a": 0, "b": 4, "c": 8}).unknown == "default"
