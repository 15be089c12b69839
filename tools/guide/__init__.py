"""Builds the guide: docs/ as a site that the API serves at /guide, searchable without a network."""
