"""Store of imported data sets: lookup, writer, verification, archives and downloads."""
