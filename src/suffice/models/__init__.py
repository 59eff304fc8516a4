"""Reference networks with exits."""

from suffice.models.convnet import convnet

__all__ = ["convnet"]
