"""Teachers that measure the variation of predictions: dropout passes, ensembles and posteriors."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
