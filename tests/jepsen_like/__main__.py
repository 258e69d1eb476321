"""`python -m tests.jepsen_like --workload register|set --nemesis kill,pause,partition --seconds 20`"""

from __future__ import annotations

import sys

from tests.jepsen_like.run import main

if __name__ == "__main__":
    sys.exit(main())
