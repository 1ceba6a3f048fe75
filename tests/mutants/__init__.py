"""Deliberate breaks of the product, each of which a named test must catch (`make mutants`)."""
