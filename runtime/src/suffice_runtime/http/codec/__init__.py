"""Bodies of the Open Inference Protocol v2 with its binary tensor extension: pure functions of bytes and arrays."""
