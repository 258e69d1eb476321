"""Server reflection: tools such as grpcurl ask which services there are, and for their definitions.

Version v1 has the same messages as v1alpha under another name of the package, so one set of them serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from synchro.rpc.calls import RpcCall
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.fault.v1 import fault_pb2
from synchro.rpc.generated.peer.v1 import replication_pb2
from synchro.rpc.generated.v1 import cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.wire.grpc_call import StatusCode

V1ALPHA: Final = pb.DESCRIPTOR.services_by_name["ServerReflection"].full_name
V1: Final = "grpc.reflection.v1.ServerReflection"
METHOD: Final = "ServerReflectionInfo"
_FILES: Final = (cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2, replication_pb2, health_pb2)


class ReflectionService:
    """with_fault: tell of synchro.fault.v1 too, which somebody else registers."""

    def __init__(self, host: RpcHost, *, with_fault: bool = False) -> None:
        files = [*_FILES, *([fault_pb2] if with_fault else [])]
        found = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
        self._names = sorted([*found, V1ALPHA, V1])
        self._method = host.duplex(self._info)

    def register(self, server: Registrar) -> None:
        for service in (V1ALPHA, V1):
            server.add_method(
                f"/{service}/{METHOD}",
                self._method,
                decode=pb.ServerReflectionRequest.FromString,
                encode=pb.ServerReflectionResponse.SerializeToString,
            )

    async def _info(self, stream: Duplex[Any, Any], _call: RpcCall) -> None:
        async for request in stream:
            await stream.send(self._answer(request))

    def _answer(self, request: Any) -> Any:
        pool = Default()
        try:
            match request.WhichOneof("message_request"):
                case "list_services":
                    names = [pb.ServiceResponse(name=name) for name in self._names]
                    listed = pb.ListServiceResponse(service=names)
                    return _response(request, list_services_response=listed)
                case "file_by_filename":
                    return _files(request, pool.FindFileByName(request.file_by_filename))
                case "file_containing_symbol":
                    return _files(
                        request, pool.FindFileContainingSymbol(_known(request.file_containing_symbol))
                    )
                case "file_containing_extension":
                    which = request.file_containing_extension
                    extended = pool.FindMessageTypeByName(which.containing_type)
                    found: Any = pool.FindExtensionByNumber(extended, which.extension_number)
                    return _files(request, found.file)
                case "all_extension_numbers_of_type":
                    extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = sorted(each.number for each in pool.FindAllExtensions(extended))
                    return _response(
                        request,
                        all_extension_numbers_response=pb.ExtensionNumberResponse(
                            base_type_name=extended.full_name, extension_number=numbers
                        ),
                    )
                case _:
                    return _error(request, StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        except KeyError:
            return _error(request, StatusCode.NOT_FOUND, "there is no such definition here")


def _known(symbol: str) -> str:
    """v1 is described by the file of v1alpha."""
    return V1ALPHA + symbol.removeprefix(V1) if symbol.startswith(V1) else symbol


def _files(request: Any, file: FileDescriptor) -> Any:
    """The file with all that it needs, each before those that need it last."""
    found = [each.serialized_pb for each in _with_imports(file, set())]
    return _response(request, file_descriptor_response=pb.FileDescriptorResponse(file_descriptor_proto=found))


def _with_imports(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    if file.name not in seen:
        seen.add(file.name)
        yield file
        for needed in file.dependencies:
            yield from _with_imports(needed, seen)


def _error(request: Any, code: StatusCode, text: str) -> Any:
    return _response(request, error_response=pb.ErrorResponse(error_code=code, error_message=text))


def _response(request: Any, **answer: Any) -> Any:
    return pb.ServerReflectionResponse(valid_host=request.host, original_request=request, **answer)
