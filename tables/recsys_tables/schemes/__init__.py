"""The schemes, a file each: what it is, its declaration in a configuration, and how that spends a budget."""
