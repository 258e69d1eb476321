"""grpcio as a host of instances, for tests: what it says to ours, and ours to it, is gRPC."""
