"""A run for a URL, and what lies there, asked of the protocol itself."""

import fsspec
import pandas as pd
import torch

SPEC = {"task": {"id": "digits"}, "seed": 3}


def filled(store, spec=SPEC, value=0.5):
    writer = store.writer(spec)
    writer.log([{"step": 0, "phase": "end", "split": "test", "name": "accuracy", "value": value}])
    writer.table("spectrum", pd.DataFrame({"step": range(50), "value": [value] * 50}))
    writer.tensors("weights", {"w": torch.full((5, 2), value)})
    return writer


def there(store):
    """Every file below the store, asked of the protocol itself."""
    fs, base = fsspec.core.url_to_fs(store.url)
    fs.invalidate_cache()
    return sorted(path.removeprefix(base).lstrip("/") for path in fs.find(base))


def attempts(store):
    return {tuple(path.split("/")[:2]) for path in there(store) if path.count("/") > 1}


def put(store, path, data):
    fs, base = fsspec.core.url_to_fs(store.url)
    fs.pipe_file(f"{base}/{path}", data)
