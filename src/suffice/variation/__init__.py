"""Paper two: the spread of a prediction under dropout, from one ordinary pass."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
