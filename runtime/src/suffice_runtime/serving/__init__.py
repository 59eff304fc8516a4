"""Serve a bundle to many threads at once: the threads that run it, its statistics, and what is watched; no HTTP."""
