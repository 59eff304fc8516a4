"""The self-contained page."""

from suffice.lazy import modules_of

__getattr__ = modules_of(__name__)
