"""Ways to cut a model's pass into stages, with a trace of it and without one."""
