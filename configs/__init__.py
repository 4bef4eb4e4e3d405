"""Configurations: each file states only what differs from `configs.base`."""
