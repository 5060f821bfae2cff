"""Helpers that the tests share; imported as `support.<module>`."""
