"""A network as an ONNX program answers as the module does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torchrec import JaggedTensor

from recsys.config.models import ModelConfig
from recsys.models import build
from recsys.serving.network import write_network

onnxruntime = pytest.importorskip("onnxruntime")
DENSE, FIELDS, D = 3, ("user", "item", "tag"), 8
INTERESTS = [{"target": "item", "history": "seen"}, {"target": "user", "history": "liked"}]
SMALL = {"hidden": [6, 5]}
MODELS: list[dict[str, Any]] = [
    {"name": "lr"},
    {"name": "fm"},
    {"name": "fnn", **SMALL},
    {"name": "ipnn", **SMALL},
    {"name": "deepfm", **SMALL, "dropout": 0.5},
    {"name": "dcn_v2", **SMALL},
    {"name": "dlrm", **SMALL},
    {"name": "xdeepfm", **SMALL, "cin": [4, 4]},
    {"name": "autoint", **SMALL},
    {"name": "final_mlp", **SMALL, "second_hidden": [4], "first_gate": ["item"]},
    {"name": "din", **SMALL, "attention_hidden": [4], "interests": INTERESTS},
]


def network_of(model: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build(TypeAdapter(ModelConfig).validate_python(model), DENSE, FIELDS, D)
    with torch.no_grad():
        for value in [*network.parameters(), *network.buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.1)  # moments too
    return network.eval()


@pytest.mark.parametrize("model", MODELS, ids=[model["name"] for model in MODELS])
def test_the_program_is_the_module(model: dict[str, Any], tmp_path: Path) -> None:
    network = network_of(model)
    write_network(network, DENSE, len(FIELDS), D, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    random = np.random.default_rng(0)
    for rows in (1, 5):
        dense, vectors = (random.normal(size=s).astype(np.float32) for s in ((rows, DENSE), (rows, 3, D)))
        inputs, histories = {"dense": dense, "vectors": vectors}, []
        for number in range(len(INTERESTS) if model["name"] == "din" else 0):
            lengths = random.integers(0, 4, rows) if rows > 1 else np.zeros(1, np.int64)  # an empty one
            values = random.normal(size=(rows, 4, D)).astype(np.float32)
            inputs |= {f"history_{number}": values, f"lengths_{number}": lengths}
            rest = np.concatenate([row[:length] for row, length in zip(values, lengths, strict=True)])
            histories.append(JaggedTensor(torch.from_numpy(rest), lengths=torch.from_numpy(lengths)))
        with torch.no_grad():
            expected = network(torch.from_numpy(dense), torch.from_numpy(vectors), *histories).numpy()
        (logit,) = session.run(None, inputs)
        np.testing.assert_allclose(logit, expected, rtol=1e-5, atol=1e-5)
