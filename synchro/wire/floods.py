"""What a peer may make this side do without a call: the accounts behind the rates of `WireLimits`."""

from __future__ import annotations

from collections.abc import Callable

from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.limits import Allowance, WireLimits


class FloodGuard:
    """The half of `Http2Connection` that counts frames which carry nothing, and calls that come to
    nothing. Each method raises `ConnectionFault` with ENHANCE_YOUR_CALM when there are too many."""

    def __init__(self, limits: WireLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._out: list[bytes | memoryview] = []
        """The output: frames, or parts of them."""
        now = clock()
        self._resets = Allowance(limits.resets_burst, limits.resets_per_s, now)
        self._settings_frames = Allowance(limits.settings_burst, limits.settings_per_s, now)
        self._idle_frames = Allowance(limits.idle_frames_burst, limits.idle_frames_per_s, now)
        self._earned = 0.0
        """What calls and their bytes had brought to `_idle_frames` when that was last asked."""

    def _traffic(self) -> tuple[int, int]:
        """Streams begun and bytes of DATA, either way, since the connection is there."""
        raise NotImplementedError

    def _answer(self, frame: bytes) -> None:
        """Say what the peer makes this side say, under no window."""
        self._out.append(frame)
        self._check_unsent()

    def _check_unsent(self) -> None:
        if len(self._out) > self.limits.unsent_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")

    def _charge_idle(self, what: str) -> None:
        """A frame that carries nothing of a call."""
        if self._idle_frames.spend():
            return
        streams, size = self._traffic()
        limits = self.limits
        earned = streams * limits.idle_frames_per_call + size / limits.bytes_per_idle_frame
        more, self._earned = earned - self._earned, earned
        if not self._idle_frames.refill(self._clock(), more):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames without use: {what}")

    def _charge_reset(self, what: str) -> None:
        """A call that came to nothing."""
        self._charge(self._resets, what)

    def _charge_settings(self) -> None:
        self._charge(self._settings_frames, "SETTINGS")

    def _charge(self, allowance: Allowance, what: str) -> None:
        if not allowance.spend() and not allowance.refill(self._clock()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
