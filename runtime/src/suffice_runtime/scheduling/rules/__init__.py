"""Rules of a scheduler on plain numbers: sizes and order of batches, measured times, fair order, padded lengths."""
