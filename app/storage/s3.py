"""Sessions of the client for S3 that give up on a store which hangs."""

from typing import Any


def session() -> Any:
    """Without `Expect: 100-continue`: aiohttp waits for that word without an end, whatever `read_timeout` says.

    Raises ImportError where the packages for S3 are not installed.
    """
    from aiobotocore.session import AioSession
    from botocore.handlers import add_expect_header

    made = AioSession()
    made.unregister("before-call.s3", add_expect_header)
    return made
