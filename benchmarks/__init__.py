"""Benchmarks: `make bench`, or `python -m benchmarks`. What is measured and how: docs/performance.md."""
