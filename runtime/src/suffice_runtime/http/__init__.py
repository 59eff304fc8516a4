"""HTTP service of bundles in the Open Inference Protocol. Needs the extra `serve`; `codec` needs NumPy alone."""
