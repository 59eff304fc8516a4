"""Run a policy on a batch, on a stream of batches, and on pools of rows in flight."""
