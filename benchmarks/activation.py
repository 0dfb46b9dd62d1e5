"""How long it takes to copy, hash and inspect an adapter into the store.

python -m benchmarks.activation [--megabytes 10 500]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 500])
    parser.add_argument("--dtype", choices=("F32", "F16", "BF16"), default="F32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="activation-", dir=os.environ.get("SCRATCH")) as scratch:
        os.environ["VAR_DIR"] = scratch
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraportal.settings")
        import django

        django.setup()
        from adapters import store
        from adapters.formats.safetensors import read_header
        from adapters.tests import layouts

        for size in options.megabytes:
            path = Path(scratch) / "weights.safetensors"
            itemsize = layouts.DTYPES[options.dtype].itemsize
            rows = size * 2**20 // (2 * 64 * 1024 * itemsize)
            tensors: layouts.Tensors = {}
            block = layouts.values((64, 1024), options.dtype)
            for index in range(rows):
                for kind, shape in (("A", (64, 1024)), ("B", (1024, 64))):
                    tensors[f"base_model.model.m{index}.lora_{kind}.weight"] = (options.dtype, shape, block)
            path.write_bytes(layouts.pack(tensors))
            os.sync()
            with open(path, "rb", buffering=0) as file:
                header = read_header(file, path.stat().st_size)
                started = time.perf_counter()
                store.put(b"{}", file, header)
                seconds = time.perf_counter() - started
            print(json.dumps({"megabytes": size, "dtype": options.dtype, "seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main()
