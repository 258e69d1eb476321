"""Bugs that the simulator must find."""
