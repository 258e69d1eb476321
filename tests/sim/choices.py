"""The only source of randomness of a simulated run."""

from __future__ import annotations

import random
from hashlib import blake2b


class Choices:
    """Own generators by name, seeded by a stable digest, never by `hash()`: a fault that is taken out of a
    run does not re-roll the choices of everything else."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, *name: object) -> random.Random:
        digest = blake2b(repr((self.seed, *name)).encode(), digest_size=8).digest()
        return random.Random(int.from_bytes(digest, "big"))
