"""Data sets: `load` a stored one as splits, `import_set` one into the store, or use a `folder` of images in place."""

from suffice.data.datasets import folder, load
from suffice.data.importing import fetch_set, import_set
from suffice.data.sources import digits
from suffice.data.splits.torch_datasets import from_torch

__all__ = ["digits", "fetch_set", "folder", "from_torch", "import_set", "load"]
