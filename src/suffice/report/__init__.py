"""The self-contained page."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
