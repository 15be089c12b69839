"""Frozen weights of a job that are mapped read-only, so that a stray write is noticed where it happens."""
