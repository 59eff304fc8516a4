"""Tables of paper two: the variation under dropout, estimated from one forward pass."""
