"""What every process needs before it starts: settings, logs, embedded services."""
