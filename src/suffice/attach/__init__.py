"""Exits for any trained model: where they go, what they pool, and what stages and exits have to keep to."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
