"""Paper two: the spread of a prediction under dropout, from one ordinary pass."""
