"""Background work: vendor clients, jobs and the sync engine."""
