"""The two papers' tables: one file an experiment, results as JSON, tables made from the JSON alone.

An experiment is a module with `TITLE`, `COST`, `TABLES` (from the name of a table to a function that makes its
Markdown from the results) and `run(out, progress)`, which keeps its results in a `Ledger`. `catalogue` lists them.
"""
