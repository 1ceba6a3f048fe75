"""What this project knows about Copper."""
