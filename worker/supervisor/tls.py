"""The certificates that HTTPS servers are held against, read once: reading takes as long as a small job's end."""

import ssl
from functools import cache

import httpx2


@cache
def certificates() -> ssl.SSLContext:
    """For `verify` of every request that a worker makes: clients would each read the certificates anew."""
    return httpx2.create_ssl_context()
