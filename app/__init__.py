"""The API, the command line, and every contract that the worker shares."""

#: The one source of the version: the distribution, the API page and `permafrost --version` read it here.
__version__ = "0.1.0"
