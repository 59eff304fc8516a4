"""Atomic files and folders, artifacts of fitted objects, and the identity of networks."""
