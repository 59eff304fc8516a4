"""What an estimator is compared with: the delta rule, propagated moments and a last layer alone."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
