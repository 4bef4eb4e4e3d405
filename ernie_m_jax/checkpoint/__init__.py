"""A run's state and data streams on disk, checked before use."""
