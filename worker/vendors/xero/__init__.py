"""What this project knows about Xero."""
