"""Paper one, at run time: when to stop, and stopping."""
