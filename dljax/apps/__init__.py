"""Applications, each composed of the parts below."""
