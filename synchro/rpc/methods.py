"""How services are made known to a server: a method of each, found by the descriptor of the service.

A service has one attribute for each method of its descriptor, made by the host:

    class InfoService:
        def __init__(self, host: RpcHost) -> None:
            self.GetInfo = host.unary_sync(self._get_info)          # def _get_info(request, call)
            self.WatchInfo = host.server_stream(self._watch_info)   # async def _watch_info(request, call)

        def register(self, server: Registrar) -> None:
            server.add_service(info_pb2.DESCRIPTOR.services_by_name["InfoService"], self)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from synchro.rpc.malformed import reader


class Kind(Enum):
    """How a method is served; see the functions of `RpcHost`."""

    UNARY = auto()
    UNARY_SYNC = auto()
    UNARY_TOGETHER = auto()
    SERVER_STREAM = auto()
    DUPLEX = auto()


class Together(NamedTuple):
    """goes: whether a call with this request is handed over, with all others of its turn; it must not raise.
    fn: gets the calls, with their requests, and does not wait."""

    goes: Callable[[Any], bool]
    fn: Callable[[Sequence[tuple[Any, Any]]], None]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service. Made by `RpcHost`. options: further arguments of its `Duplex`. at_once: asked
    before a unary call is handed over or a task is begun; None: it has no answer, or there is none to ask.
    together: which unary calls are handed over together, and to whom; None: none. opens_session: called with
    any session, or with none."""

    kind: Kind
    fn: Callable[..., Any]
    options: tuple[tuple[str, Any], ...] = ()
    at_once: Callable[..., Any] | None = None
    together: Together | None = None
    opens_session: bool = False

    @property
    def name(self) -> str:
        """The name of the function, for the log."""
        return getattr(self.fn, "__qualname__", repr(self.fn))


class Registrar(Protocol):
    """What `register` of a service is given."""

    def add_method(
        self,
        path: str,
        method: Method,
        *,
        decode: Callable[[bytes], Any] | None = None,
        encode: Callable[[Any], bytes] | None = None,
    ) -> None:
        """Serve "/package.Service/Name". decode, encode: of request and reply; None: they are bytes."""

    def add_service(self, service: ServiceDescriptor, servicer: object) -> None:
        """Serve all methods of a service; `servicer` has a `Method` of each name."""


class Methods:
    """The methods of a server: path -> `Entry`. The `Registrar` of every host."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}

    def add_method(
        self,
        path: str,
        method: Method,
        *,
        decode: Callable[[bytes], Any] | None = None,
        encode: Callable[[Any], bytes] | None = None,
    ) -> None:
        assert path.encode() not in self.entries, f"{path} is served already"
        self.entries[path.encode()] = Entry(path, method, decode, encode)

    def add_service(self, service: ServiceDescriptor, servicer: object) -> None:
        for each in service.methods:
            self.add_method(
                f"/{service.full_name}/{each.name}",
                getattr(servicer, each.name),
                decode=GetMessageClass(each.input_type).FromString,
                encode=GetMessageClass(each.output_type).SerializeToString,
            )


class Entry:
    """One method as a server has it."""

    __slots__ = ("at_once", "decode", "encode", "fn", "kind", "method", "path", "together")

    def __init__(
        self,
        path: str,
        method: Method,
        decode: Callable[[bytes], Any] | None,
        encode: Callable[[Any], bytes] | None,
    ) -> None:
        self.path = path
        self.method = method
        self.kind = method.kind
        self.fn = method.fn
        self.at_once = method.at_once
        self.together = method.together
        self.decode = _as_it_is if decode is None else reader(decode)
        """Raises `RpcError` for what is no message of the method."""
        self.encode = _as_it_is if encode is None else encode


def _as_it_is(data: Any) -> Any:
    return data
