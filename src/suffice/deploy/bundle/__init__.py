"""Folder of a bundle: manifest, graphs and model card."""
