"""Data directories of former formats."""
