"""The tables of the two papers: one file per experiment, results as JSON, tables made from the JSON alone.

An experiment is a function `run(…, out, progress)` that records its runs in a `Ledger`, and a mapping from the names of
its tables to functions that return their Markdown. `catalog` lists all experiments: title, data set, the runs that the
tables need, and how the setting is smaller than the paper's.
"""
