"""`python -m tests.jepsen_like --workload register|set --nemesis kill,pause,partition --seconds 20`"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jepsen_like.run import main

if __name__ == "__main__":
    sys.exit(main())
