"""Xero and Copper as real HTTP servers on this machine: for the demo, the tests, and anyone who builds on either."""
