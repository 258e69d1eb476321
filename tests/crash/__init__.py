"""What a disk may look like after a crash."""
