"""Spend a compute budget at run time: scores, thresholds, policies, and running them."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
