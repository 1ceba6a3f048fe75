"""Mutants of the product, each of which named tests must catch (`make mutants`)."""
