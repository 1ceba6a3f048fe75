"""Everything off the request path: the vendors' clients, the jobs, the sync."""
