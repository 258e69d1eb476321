"""`synchro`, with instances on grpcio's host: python -m tests.grpcio_host serve ..."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes lines of its own about each broken connection

from synchro.cli import main
from synchro.process import supervise
from tests.grpcio_host.host import open_grpcio_host

supervise.open_rpc_host = open_grpcio_host  # type: ignore[attr-defined,assignment]
main()
