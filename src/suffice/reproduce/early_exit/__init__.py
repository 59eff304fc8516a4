"""Paper one's tables: early exits calibrated after training."""
