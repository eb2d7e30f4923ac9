"""Training by FuxiCTR and DeepCTR-Torch, in an environment of their own; `training.py --rivals PYTHON` runs it.

python3 -m venv /tmp/rivals
/tmp/rivals/bin/pip install torch==2.13.0 fuxictr==2.3.10 'polars<2' deepctr-torch==0.3.0

Reads batches that `training.py` wrote (ids [n, F], numbers [n, m], labels [n]) into memory first, and times steps.
FuxiCTR: its layers put together as in the models of its repository, its `train_step`. DeepCTR-Torch: its models,
the body of the loop in its `fit`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

WARM = 5


def fuxictr_step(name: str, sizes: list[int], numbers: int) -> Callable[..., None]:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("bench", ".")
    for i in range(numbers):
        features.features[f"n{i}"] = {"source": "", "type": "numeric"}
    for i, size in enumerate(sizes):
        spec = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size + 1}
        features.features[f"c{i}"] = spec
    features.labels, features.num_fields = ["label"], numbers + len(sizes)

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__(
                features, model_id=name, gpu=-1, verbose=0, metrics=["AUC"], model_root=tempfile.gettempdir()
            )
            width = 16 * features.num_fields
            self.embedding_layer = FeatureEmbedding(features, 16)
            self.interaction = (
                FactorizationMachine(features) if name == "deepfm" else CrossNetV2(width, num_layers=3)
            )
            hidden = {"hidden_units": [400, 400], "hidden_activations": "ReLU"}
            self.mlp = MLP_Block(width, output_dim=1 if name == "deepfm" else None, **hidden)
            self.top = torch.nn.Linear(width + 400, 1)
            self.compile("adam", "binary_crossentropy", lr=1e-3)
            self.reset_parameters()
            self._max_gradient_norm = 10.0

        def forward(self, inputs: dict) -> dict:
            given = self.get_inputs(inputs)
            vectors = self.embedding_layer(given)
            flat = vectors.flatten(start_dim=1)
            if name == "deepfm":
                logit = self.interaction(given, vectors) + self.mlp(flat)
            else:
                logit = self.top(torch.cat([self.interaction(flat), self.mlp(flat)], dim=-1))
            return {"y_pred": self.output_activation(logit)}

    model = Model()
    model.train()

    def step(ids: torch.Tensor, dense: torch.Tensor, label: torch.Tensor) -> None:
        batch = {f"n{i}": dense[:, i] for i in range(numbers)}
        batch |= {f"c{i}": ids[:, i] for i in range(len(sizes))}
        model.train_step(batch | {"label": label}).item()

    return step


def deepctr_step(name: str, sizes: list[int], numbers: int) -> Callable[..., None]:
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DCN, DeepFM

    columns = [DenseFeat(f"n{i}", 1) for i in range(numbers)]
    columns += [SparseFeat(f"c{i}", size + 1, 16) for i, size in enumerate(sizes)]
    shape = {"dnn_hidden_units": (400, 400), "device": "cpu"}
    model = (
        DeepFM(columns, columns, **shape)
        if name == "deepfm"
        else DCN(columns, columns, cross_num=3, cross_parameterization="matrix", **shape)
    )
    model.compile("adam", "binary_crossentropy")
    model.train()

    def step(ids: torch.Tensor, dense: torch.Tensor, label: torch.Tensor) -> None:
        predicted = model(torch.cat([dense, ids.float()], dim=1)).squeeze()
        model.optim.zero_grad()
        loss = model.loss_func(predicted, label.squeeze(), reduction="sum")
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()
        loss.item()

    return step


def main(rival: str, name: str, batches: str, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    data = np.load(batches)
    ids, dense, label = (torch.from_numpy(data[key]) for key in ("ids", "dense", "label"))
    ids = ids.long() + 1
    size = int(data["batch_size"])
    step = {"fuxictr": fuxictr_step, "deepctr": deepctr_step}[rival](
        name, data["sizes"].tolist(), dense.shape[1]
    )
    count = len(ids) // size
    seconds = cpu = 0.0
    for k in range(WARM + steps):
        rows = slice(k % count * size, (k % count + 1) * size)
        started, began = time.perf_counter(), time.process_time()
        step(ids[rows], dense[rows], label[rows, None])
        seconds += (time.perf_counter() - started) * (k >= WARM)
        cpu += (time.process_time() - began) * (k >= WARM)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    figures = {"rate": steps * size / seconds, "cpu": cpu / steps, "peak": int(peak.split()[1]) * 1024}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
