"""Run the command of the runtime: `python -m suffice_runtime`."""

import sys

from suffice_runtime.cli import main

sys.exit(main())
