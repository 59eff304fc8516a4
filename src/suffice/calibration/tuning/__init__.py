"""Prior precision and temperature of every exit, from what one pass left behind; sibling files, each with `tune`.

validation   jointly, by gradient on the validation NLL of what would be answered
evidence     δ of each exit by its marginal likelihood, which needs no validation set
grid         the paper's, exit by exit: for comparison
"""

from typing import Literal

Tuning = Literal["validation", "evidence", "grid"]
