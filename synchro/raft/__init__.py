"""Elections: a Raft core without I/O. Rules [E-*]."""
