"""One instance as a process: `serve` for the foreground, `run_instance` inside a trio loop of its owner."""
