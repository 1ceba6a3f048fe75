"""What Xero and Copper post to: verify, accept, answer."""
