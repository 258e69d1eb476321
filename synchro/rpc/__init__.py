"""The only place where gRPC meets trio, and the services behind it."""
