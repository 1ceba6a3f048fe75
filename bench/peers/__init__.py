"""Other engines that do a part of what Patina does, driven by scripts of their own."""
