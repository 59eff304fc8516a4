"""Modules of PyTorch as programs and graphs of other formats."""
