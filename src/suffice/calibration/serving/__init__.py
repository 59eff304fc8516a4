"""Predictions of a calibrated network: checked passes, ensembles, samples and deadlines."""
