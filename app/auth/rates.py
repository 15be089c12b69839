"""How fast one key may ask: a token bucket for each, in this process (docs/decisions on why not across processes)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.errors import PermafrostError

WINDOW_SECONDS: Final = 60
_MOST: Final = 10_000


class RateLimited(PermafrostError):
    """Too fast. The SDK waits for `Retry-After`, which stays under the 120 s beyond which it would give up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rates:
    """Buckets that hold a minute's requests and refill evenly. For one thread: the event loop's."""

    def __init__(self, quota: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.quota = quota
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> None:
        """Counts a request. Raises RateLimited, and counts nothing, where there is none left."""
        bucket = self._filled(key)
        if bucket.tokens < 1:
            wait = max(1, math.ceil((1 - bucket.tokens) * WINDOW_SECONDS / self.quota))
            message = f"this key may make {self.quota} requests in {WINDOW_SECONDS} seconds; try again in {wait} s"
            raise RateLimited(message, headers={"retry-after": str(wait)})
        bucket.tokens -= 1

    def give_back(self, key: str) -> None:
        bucket = self._filled(key)
        bucket.tokens = min(self.quota, bucket.tokens + 1)

    def headers(self, key: str) -> dict[str, str]:
        """The IETF's RateLimit fields: requests left, and seconds until the bucket is full again."""
        bucket = self._filled(key)
        full = math.ceil((self.quota - bucket.tokens) * WINDOW_SECONDS / self.quota)
        return {
            "ratelimit-policy": f'"default";q={self.quota};w={WINDOW_SECONDS}',
            "ratelimit": f'"default";r={math.floor(bucket.tokens)};t={full}',
        }

    def _filled(self, key: str) -> _Bucket:
        at = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MOST:
                self._buckets = {each: kept for each, kept in self._buckets.items() if at - kept.at < WINDOW_SECONDS}
            bucket = self._buckets[key] = _Bucket(self.quota, at)
        refill = (at - bucket.at) * self.quota / WINDOW_SECONDS
        bucket.tokens, bucket.at = min(self.quota, bucket.tokens + refill), at
        return bucket
