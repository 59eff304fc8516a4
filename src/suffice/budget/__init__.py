"""Paper one, at run time: when to stop, and stopping."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
