"""Tools for maintainers: vulnerability audit, bill of materials and licenses."""
