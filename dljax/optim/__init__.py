"""Gradient transformations and minimisers, first order to evolution."""
