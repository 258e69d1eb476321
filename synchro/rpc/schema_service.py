"""synchro.v1.SchemaService: changes of the schema are transactions on system spaces, like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from synchro.errors import NoSuchIndex, NoSuchSequence, NoSuchSpace, SynchroError
from synchro.row import TxnId
from synchro.rpc import codec, schema_changes
from synchro.rpc.access import Need, check_space, instead_of
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import schema_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.names import Names
from synchro.rpc.once import run_once
from synchro.rpc.schema_changes import Builder, Definitions
from synchro.rpc.service import Service
from synchro.rpc.slices import mapped
from synchro.server.api import NodeApi
from synchro.storage.schema import IndexDef, IndexType, SpaceDef
from synchro.storage.sequence_def import SequenceDef
from synchro.storage.users import ADMIN, ALL_OF_TYPE, ENTER, GUEST, Caller, ObjectType, Privilege, denied


class SchemaService(Service):
    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        self.names = Names(lambda: node.instance.memtx.catalog)
        alter = self._with_space(Privilege.ALTER)
        self.CreateSpace = self.waiting(self._create_space, needs=self._may_create, with_caller=True)
        self.AlterSpace = self.waiting(self._alter_space, needs=alter, with_caller=True)
        self.TruncateSpace = self.waiting(self._truncate_space, needs=self._with_space(Privilege.WRITE))
        self.DropSpace = self.waiting(self._drop_space, needs=self._with_space(Privilege.DROP))
        self.CreateIndex = self.waiting(self._create_index, needs=self._may_create_index)
        self.DropIndex = self.waiting(self._drop_index, needs=alter)
        self.ListSpaces = self.waiting(self._list_spaces, needs=self._may_list, with_caller=True)
        self.ChecksumSpace = self.waiting(self._checksum_space, needs=self._with_space(Privilege.READ))
        self.CreateSequence = self.waiting(self._create_sequence, needs=self._may_create_sequence)
        self.AlterSequence = self.waiting(self._alter_sequence, needs=self._with_sequence(Privilege.ALTER))
        self.DropSequence = self.waiting(self._drop_sequence, needs=self._with_sequence(Privilege.DROP))
        self.SetSequence = self.waiting(self._set_sequence, needs=self._with_sequence(Privilege.WRITE))
        self.NextSequenceValue = self.waiting(
            self._next_sequence_value, needs=self._with_sequence(Privilege.WRITE)
        )
        self.ListSequences = self.at_once(self._list_sequences, needs=self.access.to_look)
        self.RunOnce = self.waiting(self._run_once, needs=self.access.to_do_everything)

    def register(self, server: Registrar) -> None:
        server.add_service(schema_pb2.DESCRIPTOR.services_by_name["SchemaService"], self)

    # --- who may

    def _may_create(self, caller: Caller, request: Message) -> None:
        rights = self.access.rights(caller)
        if not rights.of(ObjectType.SPACE, ALL_OF_TYPE) & Privilege.CREATE:
            raise denied(rights, Privilege.CREATE, ObjectType.SPACE, request.name)

    def _with_space(self, privilege: Privilege) -> Need:
        """The privilege on the space that the request names."""

        def need(caller: Caller, request: Message) -> None:
            rights = self.access.rights(caller)
            if rights.universe & privilege:
                return
            try:
                space = self.names.named_space(request.space)
            except SynchroError as error:
                if self._was_done(request):
                    return
                raise instead_of(error, rights, privilege, request.space) from error
            check_space(rights, privilege, space)

        return need

    def _was_done(self, request: Message) -> bool:
        """It is a retry of a change that is committed: what it names may have another name by now, or be
        gone. Nothing is done again (`first_try`), so nothing must be allowed."""
        request_id = codec.request_id(getattr(request, "request_id", b""))
        return request_id is not None and self.node.instance.was_committed(request_id)

    def _with_sequence(self, privilege: Privilege) -> Need:
        """The privilege on the sequence that the request names."""

        def need(caller: Caller, request: Message) -> None:
            if self._find_sequence(request.sequence) is not None or not self._was_done(request):
                self._check_sequence(caller, privilege, request.sequence)

        return need

    def _find_sequence(self, name: str) -> int | None:
        sequences = self.node.instance.memtx.catalog.sequences.by_id.values()
        return next((one.id for one in sequences if one.name == name), None)

    def _check_sequence(self, caller: Caller, privilege: Privilege, name: str) -> None:
        """name: "": on all of them. Who lacks it does not hear whether there is one of that name."""
        rights, number = self.access.rights(caller), self._find_sequence(name)
        object_id = ALL_OF_TYPE if number is None else number
        if not rights.of(ObjectType.SEQUENCE, object_id) & privilege:
            raise denied(rights, privilege, ObjectType.SEQUENCE, name)

    def _may_create_sequence(self, caller: Caller, _request: Message) -> None:
        self._check_sequence(caller, Privilege.CREATE, "")

    def _may_create_index(self, caller: Caller, request: Message) -> None:
        """One with a sequence takes values of it, or makes it."""
        self._with_space(Privilege.ALTER)(caller, request)
        if request.HasField("sequence"):
            privilege = Privilege.WRITE if request.sequence.name else Privilege.CREATE
            self._check_sequence(caller, privilege, request.sequence.name)

    def _may_list(self, caller: Caller, request: Message) -> None:
        """All spaces with which it may do anything, or one of them."""
        self.access.to_look(caller, request)
        rights = self.access.rights(caller)
        if not request.space or rights.universe & ~ENTER:
            return
        try:
            space = self.names.named_space(request.space)
        except SynchroError as error:
            raise instead_of(error, rights, Privilege.READ, request.space) from error
        if not rights.in_space(space.id) & ~ENTER:
            raise denied(rights, Privilege.READ, ObjectType.SPACE, space.name)

    # --- changes

    async def _change(self, request: Message, build: Builder, *, owner: int = ADMIN) -> TxnId | None:
        """Run what `build` makes from the schema of this moment. Returns None if nothing had to be done.
        owner: of what is made."""
        timeout_s = codec.timeout_s(request, self.node.instance.settings.txn_synchro_timeout_s)
        deadline = trio.current_time() + timeout_s
        if (first := await schema_changes.first_try(self.node, request, timeout_s)) is not None:
            return first
        done = await schema_changes.write(
            self.node,
            lambda: build(Definitions(self.node.instance.memtx, self.names, owner), request),
            deadline,
            codec.request_id(request.request_id),
            codec.position(request),
        )
        return None if done is None else done.txn

    async def _create_space(self, request: Message, caller: Caller) -> Message:
        owner = ADMIN if caller.id == GUEST else caller.id
        txn = await self._change(request, schema_changes.create_space, owner=owner)
        return schema_pb2.CreateSpaceResponse(
            header=self.header(),
            space=self._shown(request.name),
            created=txn is not None,
            txn=codec.txn_message(txn),
        )

    async def _alter_space(self, request: Message, caller: Caller) -> Message:
        try:  # A new name does not change the id, which still finds the space afterwards.
            space_id = self.names.named_space(request.space).id
        except NoSuchSpace:  # a retry may find it under its new name
            space_id = self._renamed_space(request.name, caller)
        txn = await self._change(request, schema_changes.alter_space)
        return schema_pb2.AlterSpaceResponse(
            header=self.header(), space=self._shown(space_id), txn=codec.txn_message(txn)
        )

    def _renamed_space(self, name: str, caller: Caller) -> int:
        """Id of the space that has this name now, if the caller may alter it; else 0, which none has."""
        space = next((one for one in self.node.instance.memtx.catalog.spaces() if one.name == name), None)
        if space is None or not self.access.rights(caller).in_space(space.id) & Privilege.ALTER:
            return 0
        return space.id

    async def _truncate_space(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.truncate_space)
        return schema_pb2.TruncateSpaceResponse(header=self.header(), txn=codec.txn_message(txn))

    async def _drop_space(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.drop_space)
        return schema_pb2.DropSpaceResponse(
            header=self.header(), dropped=txn is not None, txn=codec.txn_message(txn)
        )

    async def _create_index(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.create_index)
        memtx = self.node.instance.memtx
        try:
            shown = index_message(memtx.catalog.index(self.names.named_space(request.space).id, request.name))
        except (NoSuchSpace, NoSuchIndex):  # dropped by somebody else meanwhile
            shown = None
        return schema_pb2.CreateIndexResponse(
            header=self.header(), index=shown, created=txn is not None, txn=codec.txn_message(txn)
        )

    async def _drop_index(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.drop_index)
        return schema_pb2.DropIndexResponse(
            header=self.header(), dropped=txn is not None, txn=codec.txn_message(txn)
        )

    async def _create_sequence(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.create_sequence)
        return schema_pb2.CreateSequenceResponse(
            header=self.header(),
            sequence=self._shown_sequence(request.name),
            created=txn is not None,
            txn=codec.txn_message(txn),
        )

    async def _alter_sequence(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.alter_sequence)
        shown = self._shown_sequence(request.name if request.HasField("name") else request.sequence)
        return schema_pb2.AlterSequenceResponse(
            header=self.header(), sequence=shown, txn=codec.txn_message(txn)
        )

    async def _drop_sequence(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.drop_sequence)
        return schema_pb2.DropSequenceResponse(
            header=self.header(), dropped=txn is not None, txn=codec.txn_message(txn)
        )

    async def _set_sequence(self, request: Message) -> Message:
        txn = await self._change(request, schema_changes.set_sequence)
        return schema_pb2.SetSequenceResponse(header=self.header(), txn=codec.txn_message(txn))

    async def _next_sequence_value(self, request: Message) -> Message:
        """Without its request id: of a retry nobody would know which value the first try took."""
        timeout_s = codec.timeout_s(request, self.node.instance.settings.txn_synchro_timeout_s)
        done = await schema_changes.write(
            self.node,
            lambda: schema_changes.next_value(Definitions(self.node.instance.memtx, self.names), request),
            trio.current_time() + timeout_s,
        )
        assert done is not None
        (row,) = done.tuples
        assert row is not None
        return schema_pb2.NextSequenceValueResponse(
            header=self.header(), value=row[1], txn=codec.txn_message(done.txn)
        )

    async def _run_once(self, request: Message) -> Message:
        done = await run_once(self.node, self.host.slices, request)
        return schema_pb2.RunOnceResponse(
            header=self.header(),
            executed=done.executed,
            txn=codec.txn_message(done.txn),
            executed_by=done.executed_by,
        )

    # --- reads

    def _shown(self, space: str | int) -> Message | None:
        try:
            return self._space_message(self.names.space(space))
        except NoSuchSpace:  # dropped by somebody else meanwhile
            return None

    def _shown_sequence(self, name: str) -> Message | None:
        try:
            sequences = self.node.instance.memtx.catalog.sequences
            return self._sequence_message(sequences.named(name), sequences.users())
        except NoSuchSequence:  # dropped by somebody else meanwhile
            return None

    def _sequence_message(self, sequence: SequenceDef, users: Mapping[int, Sequence[int]]) -> Message:
        catalog = self.node.instance.memtx.catalog
        return schema_pb2.SequenceDef(
            id=sequence.id,
            name=sequence.name,
            step=sequence.step,
            min=sequence.min,
            max=sequence.max,
            start=sequence.start,
            cache=sequence.cache,
            cycle=sequence.cycle,
            last=catalog.sequences.last(sequence.id),
            spaces=[catalog.space(space_id).name for space_id in users.get(sequence.id, ())],
        )

    def _list_sequences(self, request: Message) -> Message:
        sequences = self.node.instance.memtx.catalog.sequences
        found = [sequences.named(request.sequence)] if request.sequence else sequences.by_id.values()
        users = sequences.users()
        shown = [self._sequence_message(one, users) for one in sorted(found, key=lambda one: one.id)]
        return schema_pb2.ListSequencesResponse(header=self.header(), sequences=shown)

    def _space_message(self, space: SpaceDef) -> Message:
        memtx = self.node.instance.memtx
        sequence, field = memtx.catalog.sequences.of_space(space.id) or (None, -1)
        return schema_pb2.SpaceDef(
            id=space.id,
            name=space.name,
            is_sync=space.is_sync,
            is_local=space.is_local,
            is_temporary=space.is_temporary,
            field_count=space.field_count,
            format=[
                schema_pb2.FieldDef(name=field.name, type=field.type, is_nullable=field.is_nullable)
                for field in space.format
            ],
            indexes=[index_message(index) for index in memtx.catalog.indexes(space.id)],
            tuple_count=memtx.count(space.id),
            sequence="" if sequence is None else sequence.name,
            sequence_field=field + 1,
            conflict=schema_changes.POLICIES[space.conflict],
        )

    async def _list_spaces(self, request: Message, caller: Caller) -> Message:
        rights = self.access.rights(caller)
        if request.space:
            spaces = [self.names.named_space(request.space)]
        else:
            spaces = [
                space
                for space in self.node.instance.memtx.catalog.spaces()
                if (request.with_system or not space.is_system) and rights.in_space(space.id) & ~ENTER
            ]
        found = (self._shown(space.id) for space in spaces)
        shown = await self.host.slices.run(mapped(found, 20))
        return schema_pb2.ListSpacesResponse(
            header=self.header(), spaces=[space for space in shown if space is not None]
        )

    async def _checksum_space(self, request: Message) -> Message:
        instance, slices = self.node.instance, self.host.slices
        async with slices.turn():
            steps = instance.memtx.checksum_in_steps(self.names.named_space(request.space).id)
            next(steps)
            read_at = codec.lsns(instance.vclock)
        count, checksum = await slices.run(steps)
        return schema_pb2.ChecksumSpaceResponse(
            header=self.header(), count=count, checksum=checksum, read_at=read_at
        )


def index_message(index: IndexDef) -> Message:
    return schema_pb2.IndexDef(
        id=index.id,
        name=index.name,
        type=schema_pb2.INDEX_TYPE_HASH if index.type is IndexType.HASH else schema_pb2.INDEX_TYPE_TREE,
        unique=index.unique,
        parts=[
            schema_pb2.KeyPart(field=part.field + 1, type=part.type, is_nullable=part.is_nullable)
            for part in index.parts
        ],
    )
