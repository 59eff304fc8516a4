"""Dropout variation (paper two): the spread of a prediction under dropout, estimated in one deterministic pass."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
