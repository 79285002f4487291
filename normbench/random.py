"""Every random draw of a run is a function of (seed, what it is for, counters): no generator carries state between
steps, so a resumed run draws what the uninterrupted one would, and a replicate draws the same alone or among others."""

from hashlib import sha256


def derive(seed: int, purpose: str, *counters: int) -> int:
    """A seed of 63 bits for one purpose (`init`, `order`, `augment`, …) at these counters (an epoch, a step)."""
    text = "/".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(sha256(text.encode()).digest()[:8]) >> 1
