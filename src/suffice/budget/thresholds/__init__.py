"""Thresholds per exit from the scores of validation data, as pure functions."""
