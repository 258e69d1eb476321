"""What an instance keeps: memtx in memory, WAL and snapshots on disk. Rules [D-*], [W-*]."""
