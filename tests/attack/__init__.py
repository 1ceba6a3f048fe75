"""Attacks on a whole installation, and what another tenant notices of them: `make attack`."""
