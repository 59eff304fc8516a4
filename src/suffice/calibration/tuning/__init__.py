"""Tuning of every exit's prior precision and temperature, one module for each method.

Every module has a function `tune(exits, objective, choices)` that returns the tuned exits and their tuned values.

validation   jointly over all exits, by gradient on the NLL of the predictions for the validation data
support      the same with and without the posteriors, which are used where the validation data support them
evidence     δ of each exit by its marginal likelihood, which needs no validation data
grid         the paper's grid search, exit by exit, for comparison
"""
