"""What an operator sees in the terminal: progress, the overview, the demo."""
