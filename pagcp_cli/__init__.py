"""pagcp."""
