"""Search for uses in which a posterior over the classifier is worth something: the same thing with and without it."""
