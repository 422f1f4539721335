"""Delivery of results: downloads to files."""
