"""`python -m tests.sim`: see `runner.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sim.runner import main

if __name__ == "__main__":
    sys.exit(main())
