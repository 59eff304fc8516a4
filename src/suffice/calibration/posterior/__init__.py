"""Gaussian posteriors over one exit's classifier; sibling files with the same five names."""
