"""Encoded images: listing folders, packing files, and decoding with Pillow."""
