"""Our gRPC against that of others, in both directions: what each pair of client and server does."""
