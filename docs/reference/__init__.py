"""The generated pages: a module writes the page of its name from what the code says of itself."""
