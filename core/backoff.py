"""Exponential back-off: how long to wait after the n-th failure in a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double from `first_s` up to `cap_s`, spread over the upper half so that many clients do not return together."""

    first_s: float
    cap_s: float

    def delay_s(self, failures: int, jitter: float) -> float:
        """Seconds to wait after `failures` failures in a row (at least 1); `jitter` is uniform in [0, 1).

        The result lies in [d/2, d), d = min(cap_s, first_s * 2**(failures - 1)).
        """
        # 2**64 times anything is beyond every cap; without the bound a long outage would overflow the float.
        full_s = min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 64))
        return full_s * (0.5 + 0.5 * jitter)
