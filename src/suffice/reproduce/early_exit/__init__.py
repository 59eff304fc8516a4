"""Tables of paper one: early exits calibrated after training."""
