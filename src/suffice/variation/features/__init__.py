"""What an estimator reads: activation strengths, their scaling, and the columns of both."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
