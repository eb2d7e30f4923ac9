"""What a declared model holds, against the network that is built of it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys.config.models import ModelConfig
from recsys.models import _MODELS, build

WIDTHS = st.lists(st.integers(1, 9), min_size=1, max_size=3)
MAYBE_WIDTHS = st.lists(st.integers(1, 9), max_size=2)
NAMES = ("item", "user", "tag", "day")  # two at least are fields
GATED = st.sampled_from([[], ["user"], ["item", "user"]])
EVEN = WIDTHS.map(lambda widths: [2 * width for width in widths])
DECLARED: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "lr": {},
    "fm": {},
    "fnn": {"hidden": WIDTHS},
    "ipnn": {"hidden": WIDTHS},
    "deepfm": {"hidden": WIDTHS},
    "dcn_v2": {"hidden": WIDTHS, "cross_layers": st.integers(1, 3)},
    "dlrm": {"hidden": WIDTHS, "bottom": MAYBE_WIDTHS},
    "xdeepfm": {"hidden": WIDTHS, "cin": WIDTHS},
    "autoint": {
        "layers": st.integers(1, 3),
        "heads": st.integers(1, 3),
        "head_dim": st.integers(1, 5),
        "residual": st.booleans(),
        "hidden": MAYBE_WIDTHS,
    },
    "final_mlp": {
        "hidden": EVEN,
        "second_hidden": EVEN,
        "gate_hidden": MAYBE_WIDTHS,
        "first_gate": GATED,
        "second_gate": GATED,
        "heads": st.integers(1, 2),
    },
    "din": {
        "hidden": WIDTHS,
        "attention_hidden": WIDTHS,
        "interests": st.sampled_from(
            [
                [{"target": "item", "history": "seen"}],
                [{"target": "item", "history": "seen"}, {"target": "user", "history": "met"}],
            ]
        ),
    },
}


def test_every_model_is_drawn() -> None:
    assert len(DECLARED) == len(_MODELS)


@pytest.mark.parametrize("name", DECLARED)
@given(data=st.data(), num_dense=st.integers(0, 3), fields=st.integers(2, 4), width=st.sampled_from([4, 8]))
@settings(max_examples=20, deadline=None)
def test_the_count_is_that_of_the_network(
    name: str, data: st.DataObject, num_dense: int, fields: int, width: int
) -> None:
    declared = data.draw(st.fixed_dictionaries(DECLARED[name]))
    model = TypeAdapter(ModelConfig).validate_python({"name": name, **declared})
    with torch.device("meta"):
        network = build(model, num_dense, NAMES[:fields], width)
    size = model.size(num_dense, fields, width)
    assert size.trained == sum(parameter.numel() for parameter in network.parameters())
    assert size.buffer_bytes == sum(buffer.nbytes for buffer in network.buffers())
