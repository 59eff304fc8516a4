"""Calibration after training: posterior, link, temperature and ensemble of every exit."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
