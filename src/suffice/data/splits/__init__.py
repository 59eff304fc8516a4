"""Splits of data sets: assignment of rows, and how images, photographs, tables and PyTorch data sets are read."""
