"""Data sets, one file each; `load` gives the splits of one that was imported, `folder` images read in place."""

from suffice.data.datasets import folder, load
from suffice.data.importing import fetch_set, import_set
from suffice.data.sources import digits
from suffice.data.torch_datasets import from_torch

__all__ = ["digits", "fetch_set", "folder", "from_torch", "import_set", "load"]
