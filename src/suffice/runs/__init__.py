"""Runs: a trained network in a folder, with all that was fitted to it, and the data that it is given by name."""
