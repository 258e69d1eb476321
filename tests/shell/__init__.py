"""Tasks, gRPC and real files, all in one process."""
