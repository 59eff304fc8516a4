"""Reference networks with exits."""

from suffice.models.convnet import convnet
from suffice.models.msdnet import msdnet

__all__ = ["convnet", "msdnet"]
