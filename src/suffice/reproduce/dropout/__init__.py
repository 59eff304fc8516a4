"""Paper two's tables: the variation under dropout from one pass."""
