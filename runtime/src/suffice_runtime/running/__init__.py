"""Run batches through the graphs of a bundle: inputs, rows in flight, and streams."""
