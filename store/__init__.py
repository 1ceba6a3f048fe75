"""All SQL statements of the application, and the only package that contains SQL."""
