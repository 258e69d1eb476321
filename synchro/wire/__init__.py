"""gRPC as it is spoken on the wire: HTTP/2 without I/O, and the shell that carries it."""
