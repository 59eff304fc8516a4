"""Learning of an estimator: labels, rows, objectives and small networks."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
