"""Attacks on a complete installation, and their effect on another tenant: `make attack`."""
