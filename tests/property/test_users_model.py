"""Users and privileges against a slow, obvious model: what was granted to whom, followed by hand."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.storage.memtx import Memtx
from synchro.storage.schema import PRIV_ID, USER_ID
from synchro.storage.user_ops import UNIVERSE, Target, UserDraft
from synchro.storage.users import (
    SUPER,
    USERS_MAX,
    Caller,
    ObjectType,
    Privilege,
)

NAMES = [f"n{number}" for number in range(6)]
WORDS = [Privilege.READ, Privilege.WRITE, Privilege.EXECUTE, Privilege.USAGE]
SPACES = [512, 513]
TARGETS = [UNIVERSE, Target(ObjectType.SPACE, "", ""), *(Target(ObjectType.SPACE, n, str(n)) for n in SPACES)]


class UsersMachine(RuleBasedStateMachine):
    """What is asked for by commands; the model keeps (name, object type, object) -> privileges, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.memtx = Memtx(Limits())
        self.kinds: dict[str, bool] = {}
        """name -> is it a role"""
        self.granted: dict[tuple[str, str, object], set[Privilege]] = {}
        self.roles: dict[str, set[str]] = {}
        """grantee -> roles that were granted to it"""

    @initialize()
    def begin(self) -> None:
        """The first user comes with the built-in ones."""
        self.create("n0", is_role=False)

    def change(self, edit: Any) -> bool:
        """Whether it was done."""
        draft = UserDraft(self.memtx.prepared_rows(USER_ID), self.memtx.prepared_rows(PRIV_ID))
        try:
            edit(draft)
        except SynchroError:
            return False
        draft.check()
        if ops := draft.ops():
            self.memtx.commit(self.memtx.prepare(ops))
        return True

    @rule(name=st.sampled_from(NAMES), is_role=st.booleans())
    def create(self, name: str, is_role: bool) -> None:
        done = self.change(lambda draft: draft.create(name, is_role=is_role))
        assert done == (name not in self.kinds)
        if done:
            self.kinds[name] = is_role
            self.roles[name] = set()
            if not is_role:
                self.granted[name, "universe", 0] = {Privilege.USAGE, Privilege.SESSION}

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: str) -> None:
        is_role = self.kinds.get(name, False)
        done = self.change(lambda draft: draft.drop(name, is_role=is_role))
        assert done == (name in self.kinds)
        if done:
            del self.kinds[name], self.roles[name]
            self.granted = {key: words for key, words in self.granted.items() if key[0] != name}
            for roles in self.roles.values():
                roles.discard(name)

    @precondition(lambda self: self.kinds)
    @rule(name=st.sampled_from(NAMES), word=st.sampled_from(WORDS), what=st.sampled_from(TARGETS))
    def grant(self, name: str, word: Privilege, what: Target) -> None:
        if name not in self.kinds:
            return
        known = self.granted.setdefault((name, what.type.value, what.object_id), set())
        done = self.change(lambda draft: draft.grant(self._user(draft, name), word, what))
        assert done == (word not in known)
        known.add(word)

    @rule(name=st.sampled_from(NAMES), word=st.sampled_from(WORDS), what=st.sampled_from(TARGETS))
    def revoke(self, name: str, word: Privilege, what: Target) -> None:
        if name not in self.kinds:
            return
        known = self.granted.setdefault((name, what.type.value, what.object_id), set())
        done = self.change(lambda draft: draft.revoke(self._user(draft, name), word, what))
        assert done == (word in known)
        known.discard(word)

    @rule(name=st.sampled_from(NAMES), role=st.sampled_from(NAMES))
    def grant_role(self, name: str, role: str) -> None:
        if name not in self.kinds or not self.kinds.get(role):
            return
        loops = self.kinds[name] and name in self._reached(role) | {role}
        done = self.change(
            lambda draft: draft.grant(self._user(draft, name), Privilege.EXECUTE, self._role(draft, role))
        )
        assert done == (role not in self.roles[name] and not loops)
        if done:
            self.roles[name].add(role)

    @rule(name=st.sampled_from(NAMES), role=st.sampled_from(NAMES))
    def revoke_role(self, name: str, role: str) -> None:
        if name not in self.kinds or not self.kinds.get(role):
            return
        done = self.change(
            lambda draft: draft.revoke(self._user(draft, name), Privilege.EXECUTE, self._role(draft, role))
        )
        assert done == (role in self.roles[name])
        self.roles[name].discard(role)

    @rule()
    def restart(self) -> None:
        """A snapshot has it all."""
        frozen = self.memtx.freeze()
        self.memtx = Memtx(Limits())
        self.memtx.begin_bulk()
        for space_id, rows in frozen:
            self.memtx.load(space_id, rows)
        self.memtx.end_bulk()

    @invariant()
    def agrees(self) -> None:
        users = self.memtx.catalog.users
        assert all(0 <= number < USERS_MAX for number in users.users)
        if users.is_unset:
            return
        assert {user.name for user in users.users.values() if user.id not in (*range(4), SUPER)} == set(
            self.kinds
        )
        for name, is_role in self.kinds.items():
            user = users.find(name)
            assert user is not None and user.is_role == is_role
            rights = users.rights(Caller(user.id, name))
            for space in SPACES:
                found = {word for word in WORDS if rights.in_space(space) & word}
                assert found == (set() if is_role else self._may(name, space)), name

    # --- the model

    def _may(self, name: str, space: int) -> set[Privilege]:
        holders = {name} | self._reached(name)
        found: set[Privilege] = set()
        usage = any(Privilege.USAGE in self.granted.get((who, "universe", 0), ()) for who in holders)
        for who in holders:
            for key in ((who, "universe", 0), (who, "space", ""), (who, "space", space)):
                found |= self.granted.get(key, set())
        return {word for word in WORDS if word in found} if usage else set()

    def _reached(self, name: str) -> set[str]:
        found: set[str] = set()
        for role in self.roles.get(name, ()):
            found |= {role} | self._reached(role)
        return found

    @staticmethod
    def _user(draft: UserDraft, name: str) -> Any:
        return next(user for user in draft.users.values() if user.name == name)

    def _role(self, draft: UserDraft, name: str) -> Target:
        return Target(ObjectType.ROLE, self._user(draft, name).id, name)


TestUsers = UsersMachine.TestCase
