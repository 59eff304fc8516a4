"""The two papers' tables: one file an experiment, results as JSON, tables made from the JSON alone.

An experiment is a function `run(…, out, progress)` that keeps its runs in a `Ledger`, and tables (from the name of one
to a function that makes its Markdown from the results). `catalogue` lists them all: title, data set, the runs that
its tables need, and what reduces it.
"""
