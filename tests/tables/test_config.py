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
    """Only a full table needs no budget: its size is given."""
    if scheme != "full":
        with pytest.raises(ValidationError, match="a budget is a text"):
            parse(scheme=scheme, budget=None)
    for key, value, message in [
        ("embedding_dim", 6, "multiple of 4"),
        ("embedding_dim", 0, "greater than or equal to 4"),
        ("init_bound", 0, "greater than 0"),
        ("chunks", 1, "Extra inputs are not permitted"),
    ]:
        with pytest.raises(ValidationError, match=message):
            parse(scheme=scheme, **{key: value})


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
    ],
)
def test_sizes_that_no_table_can_have(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(**keys)


def test_widths_that_fit_are_taken() -> None:
    assert parse(scheme="robe", block_dim=32).block_dim == 32
    assert parse(scheme="mixed_radix", operation="concat", embedding_dim=24).operands == 3
