"""What people and the CRM look at."""
