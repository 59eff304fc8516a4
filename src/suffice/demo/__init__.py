"""Demonstration of the whole library on a small network."""
