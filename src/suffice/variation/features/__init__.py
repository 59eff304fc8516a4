"""Features of a variation estimator: activation strengths, output features and their scaling."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
