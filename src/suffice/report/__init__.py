"""Report of the demo: one self-contained HTML page, and the tables of the terminal."""

from suffice.utils.lazy import modules_of

__getattr__ = modules_of(__name__)
