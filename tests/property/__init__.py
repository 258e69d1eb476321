"""Hypothesis: twins of functions, machines of many steps, models of a cluster."""
