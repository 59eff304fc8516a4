"""Checks of a user's own objects against the rules that the library relies on, for use in the user's tests.

`check_exit_network`, `check_score` and `check_teacher` return nothing if an object follows all rules, and else raise an
AssertionError that names the first rule that it violates. They only read the objects that they are given. A check on
a few examples cannot prove a rule; it finds the usual violations.
"""

from suffice.testing.networks import check_exit_network
from suffice.testing.scores import check_score
from suffice.testing.teachers import check_teacher

__all__ = ["check_exit_network", "check_score", "check_teacher"]
