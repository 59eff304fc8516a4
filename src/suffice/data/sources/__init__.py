"""Data sources: one module per data set, the user's own tables, and the catalog of known sets."""
