"""Feature pyramid."""
