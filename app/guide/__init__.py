"""The guide: docs/ as a site, which `make guide` builds and this package serves."""
