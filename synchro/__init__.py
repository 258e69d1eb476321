"""synchro: Raft-based synchronous replication with the semantics of Tarantool, over gRPC."""
