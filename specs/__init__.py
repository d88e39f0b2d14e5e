"""File formats and diagnostics: the lowest layer. Never imports torch."""
