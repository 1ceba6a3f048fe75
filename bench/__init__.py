"""How fast Patina is, each figure as a ratio to a yardstick taken in the same run. `make bench` runs it all."""
