"""Tokens that exits leave out: masks, and the search for those that a model applies itself."""
