"""A listening port: its sockets, and the connections that came by them."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from typing import Any, Final

import trio

from synchro.wire.admission import IDLE_S, Admission, PortLimits, heaviest
from synchro.wire.frames import PREFACE, ErrorCode, wrong_preface
from synchro.wire.headers import HeaderList
from synchro.wire.io import ServerLayer, plain_server
from synchro.wire.limits import WireLimits
from synchro.wire.link import Keepalive, Link
from synchro.wire.poll import READ
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import Timer, Turns

BACKLOG: Final = 1024
"""Connections that the system keeps until they are accepted."""
ACCEPTS: Final = 64
"""Connections that are accepted in one turn at the most: those that are there already come first."""
PAUSE_S: Final = 0.2
"""Seconds without accepting when there is no descriptor for one more: the system says so again and again."""
WARN_S: Final = 10.0
"""Seconds between warnings of one kind: anybody can cause them."""
HEARD_S: Final = 0.2
"""Seconds that clients get to answer that they heard of the end."""
POLL_S: Final = 0.005
NOT_USED: Final = "not used while connections are scarce; connect again"
SERVER_KEEPALIVE: Final = Keepalive(after_s=30.0, timeout_s=15.0)
"""A client whose host is gone gives its connection back; one that answers may be silent for ever."""
NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Of one address of a name, such as ::1 of "localhost" where IPv6 is switched off."""
NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Warnings:
    """One record for each kind of trouble in `WARN_S`, with how many there were: anybody can cause them."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._told_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def warn(self, event: str, **facts: object) -> None:
        now = trio.current_time()
        if now < self._told_at.get(event, -WARN_S) + WARN_S:
            self._untold[event] = self._untold.get(event, 0) + 1
            return
        self._told_at[event] = now
        self._log.warning(event, **facts, untold=self._untold.pop(event, 0))


class Listener:
    """Takes connections until `stop`. Made by `listen`."""

    def __init__(
        self,
        turns: Turns,
        sockets: list[socket.socket],
        *,
        limits: PortLimits,
        wire_limits: WireLimits,
        on_stream: Callable[[Link, Http2Stream, HeaderList], None],
        log: Any,
        keepalive: Keepalive = SERVER_KEEPALIVE,
        layer: ServerLayer = plain_server,
    ) -> None:
        """on_stream: told with each call that a client begins. log: a structured logger. layer: what lies
        between the socket and HTTP/2 of each connection."""
        self.links: set[Link] = set()
        self.admission: Admission[Link] = Admission(limits)
        self.ended = 0
        """How many connections were ended without a request."""
        self.kept_bytes = 0
        """The sum of `Link.kept_bytes`."""
        self._turns = turns
        self._sockets = sockets
        self._wire_limits = wire_limits
        self._on_stream = on_stream
        self._keepalive = keepalive
        self._layer = layer
        self._addresses: dict[Link, str] = {}
        self._prefaces: dict[Link, Timer] = {}
        self._warnings = Warnings(log)
        self._timer: Timer | None = None
        self._pause: Timer | None = None
        self._stalled_timer = turns.call_at(trio.current_time() + limits.stalled_s / 4, self._end_stalled)
        self._was_crowded = False
        self._idle_timer: Timer | None = None
        self._heavy_timer: Timer | None = None
        self._empty = trio.Event()
        self._empty.set()
        for sock in sockets:
            turns.register(sock, READ, self)

    @property
    def port(self) -> int:
        """The port of the first socket."""
        name = self._sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    # ---- accepting ------------------------------------------------------------------------------------

    is_urgent = False

    def on_ready(self, events: int) -> None:
        if self._pause is not None:
            return  # another socket of this port was found in the same look
        for sock in self._sockets:
            for _ in range(ACCEPTS):
                try:
                    accepted, _address = sock.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in NO_ROOM:
                        self._rest(error)
                        return
                    continue  # of a connection that is gone already
                try:
                    self._take(accepted)
                except OSError:  # gone between accept and the first look at it
                    accepted.close()

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a while: what waits in the system's queue is found there again."""
        self._warnings.warn("accept_failed", message=f"{error.strerror}; it is tried again")
        for sock in self._sockets:
            self._turns.unregister(sock)
        self._pause = self._turns.call_at(trio.current_time() + PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        for sock in self._sockets:
            self._turns.register(sock, READ, self)

    def _take(self, sock: socket.socket) -> None:
        address = _host_of(sock)
        why = self.admission.refusal(address)
        if why:
            self._warnings.warn("connection_refused", peer=address, message=why)
            sock.close()
            return
        now = trio.current_time()
        link = Link(
            self._turns,
            sock,
            is_client=False,
            limits=self._wire_limits,
            keepalive=self._keepalive,
            on_closed=self._on_closed,
            on_stream=self._on_first_stream,
            on_kept=self._on_kept,
            layer=self._layer(),
        )
        self.links.add(link)
        if len(self.links) == 1:
            self._empty = trio.Event()
        self._addresses[link] = address
        self.admission.add(link, address, now)
        link.on_over = lambda: self._on_over(link)
        self._prefaces[link] = self._turns.call_at(
            now + self.admission.limits.first_bytes_s, lambda: self._check_preface(link)
        )
        self._watch()

    def _on_first_stream(self, link: Link, stream: Http2Stream, headers: HeaderList) -> None:
        """The first request: from here on the port's services get them."""
        self.admission.spoke(link)
        link.h2.on_stream = lambda stream, headers: self._on_stream(link, stream, headers)
        self._on_stream(link, stream, headers)

    def _check_preface(self, link: Link) -> None:
        if len(link.first_bytes) < len(PREFACE) and not link.is_over:
            self._dismiss(link, "no preface in time")

    def _dismiss(self, link: Link, why: str) -> None:
        self.ended += 1
        link.dismiss(why if link.layer.is_ready else "the TLS handshake was not over in time")

    def _on_over(self, link: Link) -> None:
        """Name who spoke something else, or broke a rule."""
        if link.has_bad_bytes or (link.received and not link.layer.is_ready):
            self._warnings.warn("tls_refused", peer=link.peer, message=link.why)
        elif link.received and not link.first_bytes:
            why = "closed behind the TLS handshake: the client may not believe the certificate"
            self._warnings.warn("tls_refused", peer=link.peer, message=why)
        elif link.received and link.first_bytes != PREFACE:
            what = wrong_preface(link.first_bytes)
            self._warnings.warn("connection_not_http2", peer=link.peer, message=what)
        elif link.fault_code not in (None, ErrorCode.NO_ERROR):
            self._warnings.warn("connection_faulty", peer=link.peer, message=link.why)

    def _on_closed(self, link: Link) -> None:
        self.links.discard(link)
        self._prefaces.pop(link).cancel()
        self.admission.remove(link, self._addresses.pop(link))
        if not self.links:
            self._empty.set()

    # ---- who says nothing -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look again when the next silent one is due (Admission.C1)."""
        if self.admission.is_crowded != self._was_crowded:
            self._was_crowded = self.admission.is_crowded
            if self._was_crowded:
                self._warnings.warn(
                    "connections_scarce",
                    connections=self.admission.count,
                    limit=self.admission.limits.connections_max,
                    message="further ones may be refused: raise RLIMIT_NOFILE or limits.connections_max",
                )
        if self.admission.is_crowded and self._idle_timer is None:
            self._end_idle()
        when = self.admission.next_due(trio.current_time())
        if self._timer is not None:
            if self._timer.when <= when:
                return
            self._timer.cancel()
        self._timer = None if when == math.inf else self._turns.call_at(when, self._end_silent)

    def _end_silent(self) -> None:
        self._timer = None
        for link in self.admission.due(trio.current_time()):
            self._dismiss(link, "no request in time")
        self._watch()

    def _end_idle(self) -> None:
        """Make room of connections that nobody uses, and look again while the port is crowded."""
        self._idle_timer = None
        now, silent = trio.current_time(), self.admission.silent
        quiet = [
            link
            for link in self.links
            if not (link.h2.streams or link in silent or link.h2.is_going_away or link.is_over)
        ]
        for link in self.admission.idle({link: link.h2.newest_call for link in quiet}, now):
            if link.h2.is_shutting_down:
                link.h2.goaway(ErrorCode.NO_ERROR, NOT_USED)  # it had time to hear of it
            else:
                link.h2.shut_down(NOT_USED)  # a call that is on its way is served
            link.mark()
        if self.admission.is_crowded:
            self._idle_timer = self._turns.call_at(now + IDLE_S / 5, self._end_idle)

    # ---- who holds too much ---------------------------------------------------------------------------

    def _on_kept(self, more: int) -> None:
        self.kept_bytes += more
        if self.kept_bytes > self.admission.limits.kept_bytes_max and self._heavy_timer is None:
            self._heavy_timer = self._turns.call_at(trio.current_time(), self._end_heavy)

    def _end_heavy(self) -> None:
        """End connections that have most lie here, until all together are below the limit again."""
        self._heavy_timer = None
        limit = self.admission.limits.kept_bytes_max
        here = [(link, self._addresses[link], link.kept_bytes) for link in self.links if not link.is_over]
        excess = sum(size for _, _, size in here) - limit  # what is over keeps bytes for a moment only
        for link in heaviest(here, excess):
            why = f"all hold more than limits.connections_bytes_max; this connection: {link.kept_bytes} bytes"
            link.fault(ErrorCode.ENHANCE_YOUR_CALM, why)

    # ---- who takes nothing ----------------------------------------------------------------------------

    def _end_stalled(self) -> None:
        """End connections whose clients take nothing of what waits for them."""
        now, stalled_s = trio.current_time(), self.admission.limits.stalled_s
        for link in list(self.links):
            since = link.stalled_since
            if since is not None and now - since >= stalled_s and not link.is_over:
                link.fault(ErrorCode.ENHANCE_YOUR_CALM, f"nothing was taken for {stalled_s:g} s")
        self._stalled_timer = self._turns.call_at(now + stalled_s / 4, self._end_stalled)

    # ---- the end --------------------------------------------------------------------------------------

    def stop_listening(self) -> None:
        """Take no further connection. Idempotent."""
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            if self._pause is None:
                self._turns.unregister(sock)
            sock.close()
        if self._pause is not None:
            self._pause.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._stalled_timer.cancel()
        for timer in (self._idle_timer, self._heavy_timer):
            if timer is not None:
                timer.cancel()

    async def announce_end(self) -> None:
        """Tell the clients to begin no further call, and wait until they have heard it, `HEARD_S` at
        most. What they begin before is served."""
        for link in self.links:
            link.h2.shut_down()
            link.mark()
        with trio.move_on_after(HEARD_S):
            while any(not link.h2.is_going_away for link in self.links):  # noqa: ASYNC110
                await trio.sleep(POLL_S)

    def refuse_further(self) -> None:
        """Name the last call of each connection: none above it was begun, and a client may repeat those."""
        for link in self.links:
            if not link.h2.is_going_away:
                link.h2.goaway(ErrorCode.NO_ERROR, "stopping")
                link.mark()

    async def end(self, why: str) -> None:
        """Write what was said, and close all connections; calls that go on are lost."""
        for link in list(self.links):
            link.end(why)
        await self._empty.wait()


async def listen(address: str) -> list[socket.socket]:
    """Return listening sockets for host:port, one for each address of the name that this host has. Raises
    `OSError` that names the address. Port 0: any free one, the same for all."""
    host, _, port_text = address.rpartition(":")
    host, port = host.strip("[]"), int(port_text)
    sockets: list[socket.socket] = []
    try:
        found = await trio.socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        missing: OSError | None = None
        for family, kind, protocol, _name, place in dict.fromkeys(found):
            if port == 0 and sockets:
                place = (place[0], sockets[0].getsockname()[1], *place[2:])
            try:
                sockets.append(_listen_at(family, kind, protocol, place, is_alone=len(found) == 1))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return sockets


def _listen_at(
    family: int, kind: int, protocol: int, place: tuple[Any, ...], *, is_alone: bool
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # never SO_REUSEPORT: two would share it
        if family == socket.AF_INET6:  # "::" alone takes IPv4 too, as it does with grpcio
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_alone or place[0] != "::"))
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _host_of(sock: socket.socket) -> str:
    name = sock.getpeername()
    host = name[0] if isinstance(name, tuple) else "unix"
    return str(host).removeprefix("::ffff:")
