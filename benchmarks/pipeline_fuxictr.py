"""The same preparation by FuxiCTR 2.3.10, in an environment of its own; `pipeline.py --fuxictr` runs it.

python3 -m venv /tmp/fuxictr
/tmp/fuxictr/bin/pip install torch==2.13.0 fuxictr==2.3.10 'polars<2'   # it passes an argument that Polars 2 removed
/tmp/fuxictr/bin/python benchmarks/pipeline_fuxictr.py train.csv FOLDER

`FeatureProcessor` and `build_dataset`, as in its run scripts, on a CSV with a header. All rows are training rows:
no second file has to pass through Ray. The log of the 13 numbers is a method of a subclass, as in its `datasets`.
Peak memory is that of the largest single process, this one or one of Ray's.
"""

import json
import resource
import sys
import time
from pathlib import Path

import polars as pl
import ray
from fuxictr.preprocess import FeatureProcessor, build_dataset


class LogProcessor(FeatureProcessor):
    def log(self, name: str) -> pl.Expr:
        return pl.col(name).sign() * pl.col(name).abs().log1p()


def prepare(text: str, out: str) -> None:
    numbers = {"name": [f"i{i}" for i in range(1, 14)], "type": "numeric", "dtype": "float"}
    ids = {"name": [f"c{i}" for i in range(1, 27)], "type": "categorical", "dtype": "str"}
    processor = LogProcessor(
        feature_cols=[{**numbers, "active": True, "preprocess": "log"}, {**ids, "active": True}],
        label_col={"name": "label", "dtype": "float"},
        dataset_id="criteo",
        data_root=out,
    )
    build_dataset(processor, train_data=text, min_categr_count=2)


if __name__ == "__main__":
    started = time.perf_counter()
    prepare(*sys.argv[1:])
    seconds = time.perf_counter() - started
    ray.shutdown()  # only processes that have ended are counted below
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    largest = max(int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps({"seconds": seconds, "peak": largest * 1024}))
