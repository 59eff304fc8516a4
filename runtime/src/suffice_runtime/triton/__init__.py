"""Bundles on Triton Inference Server: one model for each graph, and the loop between them as a client."""
