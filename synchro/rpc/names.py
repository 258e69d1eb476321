"""Names of spaces and indexes in requests -> ids. Errors name what was asked for and what is near."""

from __future__ import annotations

from collections.abc import Callable

from synchro.errors import IllegalParams, NoSuchIndex, NoSuchSpace
from synchro.rpc.codec import Message
from synchro.storage.catalog import Catalog
from synchro.storage.schema import SpaceDef, nearest_name


class Names:
    """The committed schema of a node. Implements `operations.Schema`."""

    __slots__ = ("_catalog",)

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        """catalog: as it is now. May raise `Loading`."""
        self._catalog = catalog

    def space_id(self, name: str) -> int:
        return self.space(name).id

    def index_id(self, space_id: int, name: str) -> int:
        catalog = self._catalog()
        try:
            return catalog.index(space_id, name).id
        except NoSuchIndex as error:
            near = nearest_name(name, (index.name for index in catalog.indexes(space_id)))
            error.details = {
                **error.details,
                "space": catalog.space(space_id).name,
                "index": name,
                **({"nearest": near} if near else {}),
            }
            raise

    def space(self, name: str | int) -> SpaceDef:
        try:
            return self._catalog().space(name)
        except NoSuchSpace as error:
            error.details = {**error.details, "space": str(name)}
            nearest = error.details.get("nearest")
            if nearest and "mean" not in error.message:
                error.message += f"; did you mean '{nearest}'?"
            raise

    def named_space(self, text: str) -> SpaceDef:
        """Return a space by name, or by id in decimal if no space has that name."""
        if not text:
            raise IllegalParams("which space? Its name or its id is missing", field="space")
        try:
            return self.space(text)
        except NoSuchSpace:
            if not text.isdecimal() or len(text) > 10:
                raise
            return self.space(int(text))

    def locate(self, request: Message) -> tuple[int, int]:
        """Return (space id, index id) of a request with `space_ref` and `index_ref`."""
        which = request.WhichOneof("space_ref")
        if which is None:
            raise IllegalParams("neither space nor space_id is given", field="space")
        space_id = self.space(request.space if which == "space" else request.space_id).id
        if request.WhichOneof("index_ref") == "index":
            return space_id, self.index_id(space_id, request.index)
        return space_id, request.index_id
