"""Our gRPC against that of others, in both directions: a table of behaviours for each pair of client and server."""
