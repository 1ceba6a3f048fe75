"""The panel in Copper: its page, the records it shows, and who may see them."""
