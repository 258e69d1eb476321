"""Users, roles and what they may do: rows, and what those mean. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from synchro import errors
from synchro.config import ConfiguredGrant, ConfiguredUser, Credentials, Limits
from synchro.errors import IllegalParams, SynchroError, TupleFound
from synchro.row import Dml, RowType, Tuple
from synchro.secret import Secret, why_no_password
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.row_body import dml_from_values
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.user_ops import UserDraft, users_while_loading
from synchro.storage.users import (
    ADMIN,
    EVERYTHING,
    GUEST,
    GUEST_CALLER,
    METHOD,
    PUBLIC,
    REPLICATION,
    SUPER,
    USERS_MAX,
    ByConfig,
    Caller,
    ObjectType,
    Privilege,
    Users,
    parse_privileges,
    show_privileges,
)

Edit = Callable[[UserDraft], Any]


class World:
    """One instance's spaces, and who there is."""

    def __init__(self) -> None:
        self.memtx = Memtx(Limits())

    @property
    def users(self) -> Users:
        return self.memtx.catalog.users

    def draft(self) -> UserDraft:
        return UserDraft(self.memtx.prepared_rows(USER_ID), self.memtx.prepared_rows(PRIV_ID))

    def change(self, edit: Edit) -> Any:
        draft = self.draft()
        result = edit(draft)
        draft.check()
        if ops := draft.ops():
            self.write(*ops)
        return result

    def write(self, *ops: Dml) -> None:
        self.memtx.commit(self.memtx.prepare(ops))
        self.memtx.check()

    def create(self, name: str, **more: Any) -> Caller:
        self.change(lambda draft: draft.create(name, **more))
        found = self.users.find(name)
        assert found is not None
        return found.caller

    def space(self, name: str, owner: int = ADMIN) -> int:
        made = schema_ops.create_space(self.memtx, name, owner=owner)
        self.write(dml_from_values(RowType.INSERT, made[0].space_id, value=made[0].value))
        return self.memtx.catalog.space(name).id

    def grant(self, name: str, words: str, kind: str = "universe", object: str = "", **more: Any) -> Any:
        return self.change(lambda draft: draft.grant(*self._asked(draft, name, words, kind, object), **more))

    def revoke(self, name: str, words: str, kind: str = "universe", object: str = "", **more: Any) -> Any:
        return self.change(lambda draft: draft.revoke(*self._asked(draft, name, words, kind, object), **more))

    def _asked(self, draft: UserDraft, name: str, words: str, kind: str, object: str) -> Any:
        grantee = next(user for user in draft.users.values() if user.name == name)
        target = draft.target(kind, object, lambda _, space: self.memtx.catalog.space(space).id)
        return grantee, parse_privileges([words]), target

    def configure(self, *users: ConfiguredUser, **verifiers: bytes) -> list[str]:
        def find(_: ObjectType, name: str) -> int:
            return self.memtx.catalog.space(name).id

        def owned(user: int) -> list[str]:
            return [self.memtx.catalog.space(number).name for number in self.users.owned_by(user)]

        problems: list[str] = self.change(
            lambda draft: draft.configure(Credentials(users), verifiers, find, owned)
        )
        return problems

    def may(self, caller: Caller, privilege: Privilege, space: str = "") -> bool:
        rights = self.users.rights(caller)
        if not space:
            return bool(rights.universe & privilege)
        return bool(rights.in_space(self.memtx.catalog.space(space).id) & privilege)


def refusal(what: Callable[[], object]) -> SynchroError:
    with pytest.raises(SynchroError) as caught:
        what()
    return caught.value


READ, WRITE, EXECUTE = Privilege.READ, Privilege.WRITE, Privilege.EXECUTE


# --- a set without users --------------------------------------------------------------------------------


def test_a_set_without_rows_of_users_is_open() -> None:
    """Nobody has said who may do what: a set of before there were users goes on as it did (ADR 42)."""
    world = World()
    assert world.users.is_unset
    assert world.users.rights(GUEST_CALLER).has_all
    assert [(user.id, user.name) for user in world.users.users.values()] == [
        (GUEST, "guest"),
        (ADMIN, "admin"),
        (PUBLIC, "public"),
        (REPLICATION, "replication"),
        (SUPER, "super"),
    ]


def test_the_first_change_writes_the_built_in_users_down() -> None:
    """[S-3], [S-5]: what was implied is a row from then on, and can be revoked."""
    world = World()
    world.create("bob")
    assert not world.users.is_unset
    assert world.users.rights(GUEST_CALLER).has_all
    world.revoke("guest", "execute", "role", "super")
    assert world.users.rights(GUEST_CALLER).is_nobody
    assert world.users.rights(Caller(ADMIN, "admin")).universe == EVERYTHING


def test_the_replication_role_reads_everything_and_registers_members() -> None:
    """[S-5], [S-7]"""
    world = World()
    peer = world.create("replicator")
    world.grant("replicator", "execute", "role", "replication")
    assert world.may(peer, READ)
    assert world.may(peer, WRITE, "_cluster")
    assert not world.may(peer, WRITE)
    assert not world.may(peer, EXECUTE)


# --- grants -----------------------------------------------------------------------------------------------


def test_a_new_user_may_log_in_and_nothing_else() -> None:
    """[S-4]"""
    world = World()
    bob = world.create("bob")
    rights = world.users.rights(bob)
    assert show_privileges(rights.universe) == "session,usage"
    assert rights.of(ObjectType.USER, bob.id) & Privilege.ALTER
    assert world.users.roles_of(bob.id) == {PUBLIC}


@pytest.mark.parametrize(
    ("privilege", "kind", "name", "text"),
    [
        (READ, ObjectType.UNIVERSE, "", "Read access to universe '' is denied for user 'bob'"),
        (WRITE, ObjectType.SPACE, "bands", "Write access to space 'bands' is denied for user 'bob'"),
        (EXECUTE, ObjectType.UNIVERSE, "", "Execute access to universe '' is denied for user 'bob'"),
        (Privilege.CREATE, ObjectType.USER, "x", "Create access to user 'x' is denied for user 'bob'"),
    ],
)
def test_a_refusal_names_what_is_missing(
    privilege: Privilege, kind: ObjectType, name: str, text: str
) -> None:
    """[S-6]: the very words."""
    world = World()
    bob, bands = world.create("bob"), world.space("bands")
    number = bands if kind is ObjectType.SPACE else 0
    error = refusal(lambda: world.users.check(bob, privilege, kind, number, name))
    assert isinstance(error, errors.AccessDenied)
    assert error.message == text
    assert error.details["user"] == "bob"


def test_privileges_come_by_space_by_kind_and_by_roles_of_roles() -> None:
    """[S-4]: a role in a role."""
    world = World()
    bob, _, _ = world.create("bob"), world.space("bands"), world.space("tours")
    world.grant("bob", "read", "space", "bands")
    assert world.may(bob, READ, "bands") and not world.may(bob, READ, "tours")
    world.grant("bob", "write", "space")
    assert world.may(bob, WRITE, "tours") and not world.may(bob, READ, "tours")
    world.change(lambda draft: draft.create("outer", is_role=True))
    world.change(lambda draft: draft.create("inner", is_role=True))
    world.grant("inner", "read")
    world.grant("outer", "execute", "role", "inner")
    world.grant("bob", "execute", "role", "outer")
    assert world.may(bob, READ, "tours")
    world.revoke("outer", "execute", "role", "inner")
    assert not world.may(bob, READ, "tours")


def test_without_usage_nothing_counts() -> None:
    world = World()
    bob = world.create("bob")
    world.grant("bob", "read,write")
    world.revoke("bob", "usage")
    assert not world.may(bob, READ)
    error = refusal(lambda: world.users.check(bob, READ))
    assert error.message == "Usage access to universe '' is denied for user 'bob'"
    world.users.check(bob, Privilege.SESSION)


def test_the_owner_of_a_space_may_do_everything_with_it() -> None:
    world = World()
    bob = world.create("bob")
    world.space("mine", owner=bob.id)
    world.space("other")
    assert world.may(bob, WRITE, "mine") and world.may(bob, Privilege.DROP, "mine")
    assert not world.may(bob, READ, "other")


REFUSED_GRANTS = [
    ("read", "universe", "", errors.PrivGranted, "User 'bob' already has read access on universe"),
    ("read", "space", "bands", errors.PrivGranted, "User 'bob' already has read access on space 'bands'"),
    ("execute", "role", "super", errors.RoleGranted, "User 'bob' already has role 'super'"),
]


@pytest.mark.parametrize(("words", "kind", "name", "error", "text"), REFUSED_GRANTS)
def test_what_was_granted_is_not_granted_again(
    words: str, kind: str, name: str, error: type[SynchroError], text: str
) -> None:
    """[S-6]"""
    world = World()
    world.create("bob")
    world.space("bands")
    assert world.grant("bob", words, kind, name)
    got = refusal(lambda: world.grant("bob", words, kind, name))
    assert type(got) is error and got.message == text
    assert world.grant("bob", words, kind, name, if_not_granted=True) is False
    assert world.revoke("bob", words, kind, name)
    assert refusal(lambda: world.revoke("bob", words, kind, name)).reason.endswith("_NOT_GRANTED")
    assert world.revoke("bob", words, kind, name, if_granted=True) is False


def test_roles_are_not_granted_in_a_circle() -> None:
    """[S-6]"""
    world = World()
    for name in ("a", "b", "c"):
        world.create(name, is_role=True)
    world.grant("b", "execute", "role", "a")
    world.grant("c", "execute", "role", "b")
    for role, inner in (("a", "c"), ("a", "b"), ("a", "a")):
        got = refusal(partial(world.grant, role, "execute", "role", inner))
        assert got.reason == "ROLE_LOOP"
        assert got.message == f"Granting role '{inner}' to role '{role}' would create a loop"


def test_a_circle_that_two_masters_made_does_no_harm() -> None:
    """Each checked its own half. Nothing loops, and nobody gets more than both halves give."""
    world = World()
    bob = world.create("bob")
    for name in ("a", "b"):
        world.create(name, is_role=True)
    a, b = world.users.role("a").id, world.users.role("b").id
    world.grant("a", "read")
    world.grant("bob", "execute", "role", "b")
    world.write(
        dml_from_values(RowType.REPLACE, PRIV_ID, value=(1, a, "role", b, 4)),
        dml_from_values(RowType.REPLACE, PRIV_ID, value=(1, b, "role", a, 4)),
    )
    assert world.users.roles_of(bob.id) == {PUBLIC, a, b}
    assert world.may(bob, READ) and not world.may(bob, WRITE)


@pytest.mark.parametrize("name", ["admin", "super"])
def test_what_admin_and_super_may_do_is_built_in(name: str) -> None:
    """Else one command would lock everybody out."""
    world = World()
    assert refusal(lambda: world.revoke(name, "usage")).reason == "UNSUPPORTED"


@pytest.mark.parametrize("words", ["reed", "", "read,,write"])
def test_unknown_privileges_are_refused_by_name(words: str) -> None:
    assert refusal(lambda: parse_privileges([words])).reason == "ILLEGAL_PARAMS"


# --- who there is ------------------------------------------------------------------------------------------


def test_names_are_used_once_by_users_and_roles_together() -> None:
    """[S-6]"""
    world = World()
    world.create("bob")
    assert refusal(lambda: world.create("bob")).message == "User 'bob' already exists"
    assert refusal(lambda: world.create("bob", is_role=True)).reason == "USER_EXISTS"
    assert refusal(lambda: world.create("super")).reason == "ROLE_EXISTS"
    assert world.change(lambda draft: draft.create("bob", if_not_exists=True)) is False
    got = refusal(lambda: world.change(lambda draft: draft.find("eve", is_role=False)))
    assert (got.reason, got.message) == ("NO_SUCH_USER", "User 'eve' is not found")
    got = refusal(lambda: world.change(lambda draft: draft.find("bob", is_role=True)))
    assert (got.reason, got.message) == ("NO_SUCH_ROLE", "Role 'bob' is not found")


def test_there_are_32_users_and_roles() -> None:
    """[S-3]: ids end at 31, whatever was dropped in between."""
    world = World()
    for number in range(USERS_MAX - 5):
        world.create(f"u{number}", is_role=number % 2 == 0)
    assert sorted(world.users.users) == list(range(USERS_MAX))
    assert refusal(lambda: world.create("more")).reason == "USER_MAX"
    world.change(lambda draft: draft.drop("u3", is_role=False))
    assert world.create("more").id < USERS_MAX


def test_a_name_is_short() -> None:
    """It stands in refusals and lists."""
    world = World()
    assert refusal(lambda: world.create("x" * 64)).reason == "ILLEGAL_PARAMS"
    assert world.create("x" * 63).name == "x" * 63


def test_guest_has_no_password() -> None:
    """[S-2]"""
    world = World()
    got = refusal(lambda: world.change(lambda draft: draft.set_verifier("guest", b"v")))
    assert got.reason == "GUEST_USER_PASSWORD"
    assert got.message.startswith("Setting password for guest user has no effect")


@pytest.mark.parametrize("name", ["guest", "admin"])
def test_built_in_users_stay(name: str) -> None:
    world = World()
    assert refusal(lambda: world.change(lambda draft: draft.drop(name, is_role=False))).reason == "DROP_USER"


def test_a_dropped_user_leaves_nothing_to_who_comes_after_it() -> None:
    """Its id is given again, and what was granted to it, or on it, is not."""
    world = World()
    bob, eve = world.create("bob"), world.create("eve")
    world.grant("bob", "read,write,execute")
    world.grant("eve", "alter", "user", "bob")
    world.change(lambda draft: draft.drop("bob", is_role=False))
    assert not world.may(bob, READ)  # a session of it that goes on
    carl = world.create("carl")
    assert carl.id == bob.id
    assert not world.may(carl, READ)
    assert not world.users.rights(eve).of(ObjectType.USER, carl.id) & Privilege.ALTER


def test_grants_that_another_master_left_behind_are_given_to_nobody() -> None:
    """It granted something to a user that was dropped here meanwhile."""
    world = World()
    bob = world.create("bob")
    world.change(lambda draft: draft.drop("bob", is_role=False))
    world.write(dml_from_values(RowType.REPLACE, PRIV_ID, value=(1, bob.id, "universe", 0, 255)))
    carl = world.create("carl")
    assert carl.id == bob.id and not world.may(carl, READ)


def test_a_user_with_spaces_is_not_dropped() -> None:
    world = World()
    bob = world.create("bob")
    world.space("mine", owner=bob.id)
    got = refusal(lambda: world.change(lambda draft: draft.drop("bob", is_role=False, spaces=["mine"])))
    assert got.reason == "DROP_USER" and "mine" in got.message


def test_a_dropped_space_takes_along_what_was_granted_on_it() -> None:
    """Else a space that gets its number by `--id` would begin with readers."""
    world = World()
    bob, number = world.create("bob"), world.space("bands")
    world.grant("bob", "read", "space", "bands")
    ops = schema_ops.drop_space(world.memtx, "bands")
    world.write(*(dml_from_values(op.type, op.space_id, key=op.key) for op in ops))
    made = schema_ops.create_space(world.memtx, "tours", space_id=number)
    world.write(dml_from_values(RowType.INSERT, made[0].space_id, value=made[0].value))
    assert not world.may(bob, READ, "tours")


@pytest.mark.parametrize(
    "row",
    [
        (40, 1, "far", "user", {}),
        (5, 1, "odd", "group", {}),
        (5, 1, "odd", "user", {"scrypt": 5}),
        (5, 1, "odd", "user", {}, {"config": "yes"}),
    ],
)
def test_rows_that_mean_nothing_stop_nobody(row: tuple[Any, ...]) -> None:
    """They came from a peer, or out of a log, and are applied as they are."""
    world = World()
    world.create("bob")
    world.write(dml_from_values(RowType.REPLACE, USER_ID, value=row))
    assert world.users.find("bob") is not None
    assert all(user.id < USERS_MAX for user in world.users.users.values())


# --- nobody becomes more than it is -----------------------------------------------------------------------


def test_who_sets_a_password_gains_nothing_by_it() -> None:
    """Alter on all users is not the way to become admin."""
    world = World()
    bob, _ = world.create("bob"), world.create("eve")
    world.grant("bob", "alter,read")
    users = world.users
    assert users.may_act_for(bob, users.user("eve"))
    assert not users.may_act_for(bob, users.user("admin"))
    world.grant("eve", "write")
    assert not users.may_act_for(bob, world.users.user("eve"))
    world.revoke("eve", "write")
    world.space("hers", owner=users.user("eve").id)
    assert not world.users.may_act_for(bob, world.users.user("eve"))


def test_who_drops_a_role_or_makes_another_ones_password_is_no_less() -> None:
    """Of a role counts what it gives; of a user also what waits for `usage`,
    and what it may do to users."""
    world = World()
    bob = world.create("bob")
    for kind in ("user", "role"):
        world.grant("bob", "alter,drop", kind)
    world.create("eve")
    world.create("boss", is_role=True)
    assert world.users.may_act_for(bob, world.users.role("boss"))
    world.grant("boss", "execute", "role", "super")
    assert not world.users.may_act_for(bob, world.users.role("boss"))
    world.grant("eve", "write")
    world.revoke("eve", "usage")
    assert not world.users.may_act_for(bob, world.users.user("eve"))
    world.revoke("eve", "write")
    assert world.users.may_act_for(bob, world.users.user("eve"))
    world.grant("eve", "create", "user")
    assert not world.users.may_act_for(bob, world.users.user("eve"))


def test_write_on_the_universe_does_not_reach_what_is_defined() -> None:
    """QS-3 grants it to the guest: that makes it no administrator."""
    world = World()
    world.create("bob")
    world.revoke("guest", "execute", "role", "super")
    world.grant("guest", "read,write")
    rights = world.users.rights(GUEST_CALLER)
    assert rights.may_write(world.space("bands"))
    for name in ("_space", "_index", "_truncate", "_user", "_priv", "_cluster", "_schema"):
        assert not rights.may_write(world.memtx.catalog.space(name).id), name
    world.grant("guest", "execute")
    assert world.users.rights(GUEST_CALLER).may_write(world.memtx.catalog.space("_cluster").id)


def test_it_is_known_whether_an_administrator_can_call() -> None:
    """Without one nobody could give any right again: the last one is not taken away by a command."""
    world = World()
    assert world.draft().has_administrator  # the guest
    world.create("root")
    world.grant("root", "execute", "role", "super")
    world.revoke("guest", "execute", "role", "super")
    assert not world.draft().has_administrator
    world.change(lambda draft: draft.set_verifier("root", b"v"))
    assert world.draft().has_administrator
    world.revoke("root", "usage")
    assert world.draft().has_administrator  # its role says so too
    world.revoke("root", "execute", "role", "super")
    assert not world.draft().has_administrator
    world.change(lambda draft: draft.set_verifier("admin", b"v"))
    assert world.draft().has_administrator


# --- the configuration [C-43] -------------------------------------------------------------------------------


APP = ConfiguredUser(
    "app",
    password=Secret("x"),
    roles=("reader",),
    grants=(ConfiguredGrant(("read", "write"), "space", "bands"),),
)
READER = ConfiguredUser("reader", is_role=True, grants=(ConfiguredGrant(("read",), "universe"),))


def test_what_the_configuration_made_goes_with_it() -> None:
    """[C-43], and what people made stays."""
    world = World()
    world.space("bands")
    bob = world.create("bob")
    assert world.configure(READER, APP, app=b"v") == []
    app = world.users.user("app")
    assert app.verifier == b"v" and app.by_config == ByConfig.USER | ByConfig.PASSWORD
    assert world.may(app.caller, READ) and world.may(app.caller, WRITE, "bands")
    world.grant("reader", "execute")
    world.grant("bob", "execute", "role", "reader")
    assert world.configure(READER) == []
    assert world.users.find("app") is None
    assert world.configure(ConfiguredUser("reader", is_role=True)) == []
    assert not world.may(bob, READ) and world.may(bob, EXECUTE)
    assert world.configure() == []
    assert world.users.find("reader") is None and world.users.find("bob") is not None


def test_configuring_twice_changes_nothing() -> None:
    """[C-43]: it is done again by each new leader."""
    world = World()
    world.space("bands")
    world.configure(READER, APP, app=b"v")
    draft = world.draft()
    draft.configure(Credentials((READER, APP)), {}, lambda _, name: world.memtx.catalog.space(name).id)
    assert draft.ops() == []


def test_a_password_of_the_configuration_goes_and_its_user_stays_if_people_made_it() -> None:
    """[C-43]"""
    world = World()
    world.create("bob", verifier=b"old")
    world.configure(ConfiguredUser("bob", password=Secret("x")), bob=b"new")
    assert world.users.user("bob").verifier == b"new"
    world.configure()
    assert world.users.user("bob").verifier is None


def test_what_cannot_be_granted_yet_is_named_and_the_rest_is_done() -> None:
    """[C-43]: a space comes later."""
    world = World()
    problems = world.configure(
        READER, APP, ConfiguredUser("guest", password=Secret("x")), app=b"v", guest=b"v"
    )
    assert any("bands" in problem for problem in problems)
    assert any("guest" in problem for problem in problems)
    app = world.users.user("app").caller
    assert world.may(app, READ)
    world.space("bands")
    assert len(world.configure(READER, APP)) == 0
    assert world.may(app, WRITE, "bands")


def test_before_rows_are_known_the_configuration_says_who_may() -> None:
    """An instance that loads has no sessions: only what it gives the guest counts."""
    assert users_while_loading(None).rights(GUEST_CALLER).has_all
    assert users_while_loading(Credentials()).rights(GUEST_CALLER).has_all
    admin = Credentials((ConfiguredUser("admin", password=Secret("x")),))
    assert users_while_loading(admin).rights(GUEST_CALLER).is_nobody
    guest = Credentials((ConfiguredUser("guest", roles=("super",)),))
    assert users_while_loading(guest).rights(GUEST_CALLER).has_all


def test_passwords_stand_in_no_text() -> None:
    assert "secret" not in repr(Credentials((ConfiguredUser("bob", password=Secret("secret")),)))


@pytest.mark.parametrize(
    "name", ["", "a b", "a\u202eb", "a\u200bb", "a\x00", "a\nb", "a\x1b[31m", "a:b", "a@b", "-a", "x" * 64]
)
@pytest.mark.parametrize("is_role", [False, True])
def test_one_rule_for_names_holds_for_users_too(name: str, is_role: bool) -> None:
    """ADR 26: some of these show another name than they are, others are no user of an address."""
    world = World()
    with pytest.raises(IllegalParams, match="is not a name"):
        world.create(name, is_role=is_role)
    assert world.users.is_unset


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "1 to 256 bytes"),
        ("x" * 257, "1 to 256 bytes"),
        ("\u00e4" * 129, "1 to 256 bytes"),
        ("a\nb", "no line break"),
        ("a\r", "no line break"),
        ("a\x00", "no NUL"),
    ],
)
def test_what_is_no_password(text: str, why: str) -> None:
    """A file of one is its first line: what has more could be set, and never be given."""
    assert why in str(why_no_password(text))
    assert why_no_password("t\u00f6p secret") is None


def test_what_the_configuration_wants_no_more_may_wait() -> None:
    """What is missing is added meanwhile."""
    world = World()
    world.configure(READER, APP, app=b"v")
    other = ConfiguredUser("other", password=Secret("y"), roles=("reader",))

    def no_object(_: ObjectType, name: str) -> int:
        raise AssertionError(name)

    wanted, verifiers = Credentials((READER, other)), {"other": b"w"}
    assert world.change(lambda draft: draft.configure(wanted, verifiers, no_object, takes_away=False)) == []
    assert world.users.find("app") is not None and world.users.find("other") is not None
    world.configure(READER, other)
    assert world.users.find("app") is None


def test_a_conflict_of_two_users_shows_no_verifier() -> None:
    """[A-55]: two masters give one id to two users; the error is in logs, `info` and `status`."""
    memtx = Memtx(Limits())
    for name, number in (("ann", 4), ("ben", 4), ("ann", 5)):
        row: Tuple = (number, 1, name, "user", {METHOD: name.encode() * 8}, {})
        try:
            memtx.commit(memtx.prepare([dml_from_values(RowType.INSERT, USER_ID, value=row)], from_peer=True))
        except TupleFound as error:
            shown = f"{error.message} {error.details}"
            assert '"ann", "user", {"scrypt": null}' in shown
            assert "annann" not in shown and "benben" not in shown
        else:
            assert (name, number) == ("ann", 4)
