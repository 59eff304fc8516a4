"""Baselines of an estimator that need no training: the delta rule, propagated moments and the last layer alone."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
