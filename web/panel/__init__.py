"""The panel in Copper: its page, record views, long polls and authorisation."""
