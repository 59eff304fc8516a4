"""Networks whose stages compute in 8-bit integers."""
