"""synchro.v1.AuthService: users, roles, and what they may do. [S-2]..[S-6], ADR 42."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest

import trio

from synchro.errors import AccessDenied, ConfigError, DropUser, IllegalParams, SynchroError, Unsupported
from synchro.row import Dml, TxnId
from synchro.rpc import codec, schema_changes
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import auth_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.logging_in import login_method
from synchro.rpc.methods import Registrar
from synchro.rpc.names import Names
from synchro.rpc.peer_login import password_of
from synchro.rpc.service import Service
from synchro.secret import why_no_password
from synchro.server.api import NodeApi
from synchro.server.logins import Logins
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.user_ops import Target, UserDraft
from synchro.storage.users import (
    ADMIN,
    ALL_OF_TYPE,
    GUEST,
    Caller,
    Grant,
    ObjectId,
    ObjectType,
    Privilege,
    Rights,
    User,
    UserKind,
    Users,
    denied,
    parse_privileges,
)


class AuthService(Service):
    def __init__(self, node: NodeApi, host: RpcHost, logins: Logins) -> None:
        super().__init__(node, host)
        self.Login = login_method(self, logins)
        self.names = Names(lambda: node.instance.memtx.catalog)
        self.CreateUser = self.waiting(
            self._create_user,
            needs=self._may_create,
            with_caller=True,
            has_password=lambda request: request.HasField("password"),
        )
        self.SetPassword = self.waiting(
            self._set_password, needs=self._may_alter, with_caller=True, has_password=lambda _: True
        )
        self.DropUser = self.waiting(self._drop_user, needs=self._may_drop, with_caller=True)
        self.Grant = self.waiting(self._grant, needs=self._may_grant, with_caller=True)
        self.Revoke = self.waiting(self._revoke, needs=self._may_revoke)
        self.ListUsers = self.waiting(self._list_users, needs=self.access.to_look, with_caller=True)

    def register(self, server: Registrar) -> None:
        server.add_service(auth_pb2.DESCRIPTOR.services_by_name["AuthService"], self)

    # --- who may

    def _may_create(self, caller: Caller, request: Message) -> None:
        rights, kind = self.access.rights(caller), _kind(request.is_role)
        if not rights.of(kind, ALL_OF_TYPE) & Privilege.CREATE:
            raise denied(rights, Privilege.CREATE, kind, request.name)

    def _may_alter(self, caller: Caller, request: Message) -> None:
        self._may_change(caller, request.name or caller.name, ObjectType.USER, Privilege.ALTER)

    def _may_drop(self, caller: Caller, request: Message) -> None:
        self._may_change(caller, request.name, _kind(request.is_role), Privilege.DROP)

    def _may_change(self, caller: Caller, name: str, kind: ObjectType, privilege: Privilege) -> None:
        """Nobody changes a user who may do what the caller may not: whoever sets its password becomes it."""
        rights, users = self.access.rights(caller), self.access.users
        user = users.find(name, UserKind(kind.value))
        object_id: ObjectId = ALL_OF_TYPE if user is None else user.id
        if not rights.of(kind, object_id) & privilege:
            raise denied(rights, privilege, kind, name)
        if user is not None and not users.may_act_for(caller, user):
            raise denied(rights, privilege, kind, name)

    def _may_grant(self, caller: Caller, request: Message) -> None:
        self._may_hand_out(caller, request, "Grant")

    def _may_revoke(self, caller: Caller, request: Message) -> None:
        self._may_hand_out(caller, request, "Revoke")

    def _may_hand_out(self, caller: Caller, request: Message, word: str) -> None:
        """Who has all may, and the owner of a space, on that space."""
        rights = self.access.rights(caller)
        if rights.has_all or self._owns(rights, request):
            return
        raise AccessDenied(
            f"{word} access to {request.object_type or ObjectType.UNIVERSE} '{request.object}' is denied for "
            f"user '{caller.name}'",
            privilege=word.lower(),
            object_type=request.object_type,
            object=request.object,
            user=caller.name,
        )

    def _owns(self, rights: Rights, request: Message) -> bool:
        if request.object_type != ObjectType.SPACE or not request.object:
            return False
        try:
            space = self.names.named_space(request.object)  # as the grant will: a name comes before an id
        except SynchroError:
            return False
        return space.owner == rights.caller.id and bool(rights.universe & Privilege.USAGE)

    # --- changes

    async def _change(self, request: Message, edit: Callable[[UserDraft], object]) -> TxnId | None:
        timeout_s = codec.timeout_s(request, self.node.instance.settings.txn_synchro_timeout_s)

        def build() -> list[Dml]:
            memtx = self.node.instance.memtx
            draft = UserDraft(memtx.prepared_rows(USER_ID), memtx.prepared_rows(PRIV_ID))
            had_administrator = draft.has_administrator
            edit(draft)
            if had_administrator and not draft.has_administrator:
                raise Unsupported(
                    "A set of which no administrator can log in is not supported: nobody with a password "
                    "would have the role super any more; nothing was done. Next: synchro user passwd admin"
                )
            if lost := self.node.quorum_without(draft.after()):
                raise Unsupported(
                    f"A set whose peers may not call is not supported: {', '.join(lost)} could not speak as "
                    "a member any more, and without them there is no quorum; nothing was done. Next: set "
                    "grpc.advertise.peer.login in their files, synchro config reload CONFIG; restart those "
                    "that have it and called before there was such a user"
                )
            return draft.ops()

        deadline = trio.current_time() + timeout_s
        if (first := await schema_changes.first_try(self.node, request, timeout_s)) is not None:
            return first
        async with self.node.user_changes.turn(max(0.0, deadline - trio.current_time())):
            done = await schema_changes.write(
                self.node,
                build,
                deadline,
                codec.request_id(request.request_id),
                codec.position(request),
            )
        return None if done is None else done.txn

    async def _create_user(self, request: Message, caller: Caller) -> Message:
        verifier = None
        if request.HasField("password"):
            if request.is_role:
                raise IllegalParams("a role has no password; nothing was done", field="password")
            verifier = await self._verifier(request.password)
        txn = await self._change(
            request,
            lambda draft: draft.create(
                request.name,
                is_role=request.is_role,
                owner=_maker(caller),
                verifier=verifier,
                if_not_exists=request.if_not_exists,
            ),
        )
        return auth_pb2.CreateUserResponse(
            header=self.header(), created=txn is not None, txn=codec.txn_message(txn)
        )

    async def _set_password(self, request: Message, caller: Caller) -> Message:
        name = request.name or caller.name
        self.access.users.user(name)
        verifier = await self._verifier(request.password)
        is_of_peers = await self._is_of_peers(name, request.password)

        def edit(draft: UserDraft) -> None:
            self._may_alter(caller, request)  # it may have got more rights meanwhile
            draft.set_verifier(name, verifier)
            if not is_of_peers and (lost := self.node.quorum_without(draft.after(), name)):
                raise Unsupported(
                    f"A set whose peers may not call is not supported: {', '.join(lost)}, and by its file "
                    "this instance calls with another password, so that there would be no quorum; nothing "
                    "was done. Next: write the new password for grpc.advertise.peer into the files of all "
                    "members, or into its password_file, let each of them read it (synchro config reload "
                    "CONFIG; streams go on), and give the same command again"
                )

        txn = await self._change(request, edit)
        return auth_pb2.SetPasswordResponse(header=self.header(), txn=codec.txn_message(txn))

    async def _is_of_peers(self, name: str, password: str) -> bool:
        """Whether this instance calls its peers as this user and with this password, as the others do by the
        same file."""
        logins = self.node.instance.settings.peer_logins.as_user(name)
        try:
            known = [(await password_of(login)).reveal() for login in logins]
        except ConfigError:
            return False
        return bool(known) and all(compare_digest(one.encode(), password.encode()) for one in known)

    async def _verifier(self, password: str) -> bytes:
        if (why := why_no_password(password)) is not None:
            raise IllegalParams(f"{why}; nothing was done", field="password")
        return await self.node.user_changes.verifier_of(password)

    async def _drop_user(self, request: Message, caller: Caller) -> Message:
        if request.name == caller.name and not request.is_role:
            raise DropUser(f"Failed to drop user '{request.name}': it is the one who asks; nothing was done")

        def edit(draft: UserDraft) -> None:
            catalog = self.node.instance.memtx.catalog
            user = catalog.users.find(request.name, UserKind(_kind(request.is_role).value))
            owned = () if user is None else catalog.users.owned_by(user.id)
            draft.drop(
                request.name,
                is_role=request.is_role,
                spaces=[catalog.space(number).name for number in owned],
                if_exists=request.if_exists,
            )

        txn = await self._change(request, edit)
        return auth_pb2.DropUserResponse(
            header=self.header(), dropped=txn is not None, txn=codec.txn_message(txn)
        )

    async def _grant(self, request: Message, caller: Caller) -> Message:
        def edit(draft: UserDraft) -> None:
            grantee, privileges, target = self._asked(draft, request)
            # What the guest may do as long as nobody said so is not what somebody granted.
            is_same = request.if_not_granted or draft.is_first
            draft.grant(grantee, privileges, target, grantor=_maker(caller), if_not_granted=is_same)

        txn = await self._change(request, edit)
        return auth_pb2.GrantResponse(
            header=self.header(), granted=txn is not None, txn=codec.txn_message(txn)
        )

    async def _revoke(self, request: Message) -> Message:
        def edit(draft: UserDraft) -> None:
            draft.revoke(*self._asked(draft, request), if_granted=request.if_granted)

        txn = await self._change(request, edit)
        return auth_pb2.RevokeResponse(
            header=self.header(), revoked=txn is not None, txn=codec.txn_message(txn)
        )

    def _asked(self, draft: UserDraft, request: Message) -> tuple[User, Privilege, Target]:
        grantee = draft.find(request.grantee, is_role=request.is_role)
        privileges = parse_privileges(request.privileges)
        return grantee, privileges, draft.target(request.object_type, request.object, self._object_id)

    def _object_id(self, kind: ObjectType, name: str) -> ObjectId:
        if kind is ObjectType.SEQUENCE:
            return self.node.instance.memtx.catalog.sequences.named(name).id
        return self.names.named_space(name).id

    # --- reads

    async def _list_users(self, request: Message, caller: Caller) -> Message:
        users, rights = self.access.users, self.access.rights(caller)
        chosen = list(users.users.values())
        if not rights.reads_all:
            own = {caller.id} | users.roles_of(caller.id)
            chosen = [user for user in chosen if user.id in own]
        if request.name:
            chosen = [user for user in chosen if user.name == request.name]
            if not chosen and not rights.reads_all:  # whether there is one is not told
                raise denied(rights, Privilege.READ, ObjectType.UNIVERSE, "")
            if not chosen:
                users.user(request.name)
        return auth_pb2.ListUsersResponse(
            header=self.header(),
            users=[self._user_message(users, user) for user in chosen],
            is_unset=users.is_unset,
        )

    def _user_message(self, users: Users, user: User) -> Message:
        owner = users.users.get(user.owner)
        return auth_pb2.UserInfo(
            id=user.id,
            name=user.name,
            is_role=user.is_role,
            owner="" if owner is None else owner.name,
            has_password=user.verifier is not None,
            is_from_config=bool(user.by_config),
            grants=[
                auth_pb2.GrantInfo(
                    object_type=grant.type.value,
                    object=self._object_name(users, grant),
                    privileges=_words(grant.privileges),
                    by_config=_words(grant.by_config),
                )
                for grant in users.grants.get(user.id, ())
            ],
        )

    def _object_name(self, users: Users, grant: Grant) -> str:
        number = grant.object_id
        if grant.type is ObjectType.UNIVERSE or not isinstance(number, int):
            return ""
        if grant.type in (ObjectType.ROLE, ObjectType.USER):
            known = users.users.get(number)
            return f"#{number}" if known is None else known.name
        catalog = self.node.instance.memtx.catalog
        if grant.type is ObjectType.SEQUENCE:
            sequence = catalog.sequences.by_id.get(number)
            return f"#{number}" if sequence is None else sequence.name
        store = catalog.stores.get(number)
        return f"#{number}" if store is None else store.definition.name


def _maker(caller: Caller) -> int:
    """What the guest makes belongs to nobody in particular."""
    return ADMIN if caller.id == GUEST else caller.id


def _kind(is_role: bool) -> ObjectType:
    return ObjectType.ROLE if is_role else ObjectType.USER


def _words(privileges: Privilege) -> list[str]:
    return [str(each.name).lower() for each in Privilege if each & privileges]
