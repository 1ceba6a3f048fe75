"""Comparable engines that cover a part of what Patina does, each run by its own script."""
