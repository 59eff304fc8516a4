"""Service under load: this server beside the full network, LitServe and Triton, on the same graphs and one core."""
