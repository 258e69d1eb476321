"""One instance of a replica set without I/O: `core.Instance.step(event, now) -> effects`."""
