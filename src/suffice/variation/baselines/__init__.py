"""Baselines of an estimator that need no training: the delta rule, propagated moments, the last layers alone."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
