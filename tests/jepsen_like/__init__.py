"""Real processes, a nemesis, and a checker of the history."""
