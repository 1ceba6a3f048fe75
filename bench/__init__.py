"""Benchmarks: figures relative to a baseline of the same run. `make bench` runs all of them."""
