"""Speed benchmarks, reported as ratios to a peer or to the plain forward pass."""
