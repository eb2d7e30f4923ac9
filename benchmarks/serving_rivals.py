"""What `serving.py` compares with where it is installed: Torch-RecHub's own ONNX program of a DeepFM of the same size.

pip install --no-deps torch-rechub. Its program holds the tables, and has an input for each feature; codes are the caller's.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def rechub_program(
    table_rows: Sequence[int], num_dense: int, embedding_dim: int, folder: Path
) -> Callable[[np.ndarray, np.ndarray], Any] | None:
    """Return a call that answers numbers [n, k] and codes [n, F], of an untrained network, or None without the package."""
    if importlib.util.find_spec("torch_rechub") is None:
        return None
    import onnxruntime
    import torch
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.utils.onnx_export import ONNXExporter

    dense = [DenseFeature(f"n{i}") for i in range(num_dense)]
    sparse = [
        SparseFeature(f"c{i}", vocab_size=rows, embed_dim=embedding_dim) for i, rows in enumerate(table_rows)
    ]
    network = DeepFM([*dense, *sparse], sparse, {"dims": [400, 400], "activation": "relu", "dropout": 0.0})
    inputs = {feature.name: torch.zeros(2) for feature in dense}
    inputs |= {feature.name: torch.zeros(2, dtype=torch.int64) for feature in sparse}
    file = folder / "rechub.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        ONNXExporter(network).export(str(file), dummy_input=inputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def answer(numbers: np.ndarray, codes: np.ndarray) -> Any:
        columns = {f"n{i}": column for i, column in enumerate(numbers.T)}
        columns |= {f"c{i}": column for i, column in enumerate(codes.T)}
        return session.run(None, {name: np.ascontiguousarray(columns[name]) for name in names})[0]

    return answer
