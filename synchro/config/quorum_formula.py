"""How many instances a quorum needs: a number, or a formula of the number of members [Q-30]."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from synchro.errors import ConfigError
from synchro.ids import INSTANCE_ID_MAX

_BINARY: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


_FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "abs": abs,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "fmod": math.fmod,
}


FORMULA_LENGTH_MAX: Final = 256
"""Characters; a formula is a line a person wrote."""


def _evaluate(node: ast.expr, variables: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name) if name in variables:
            return variables[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_evaluate(left, variables), _evaluate(right, variables))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, variables)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr=name), args=args, keywords=[]):
            if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(_evaluate(arg, variables) for arg in args))
    raise ConfigError(f"a quorum formula may not contain {ast.unparse(node)!r}")


class QuorumFormula:
    """A number, or a formula of N such as "N / 2 + 1" [Q-30].

    Checked for every N when made: each result must lie in 1..31, else `ConfigError`. clamp: the linearizable
    one, which may name Q too, and is brought into the range instead [Q-34].
    """

    __slots__ = ("_clamp", "_tree", "text")

    def __init__(self, text: str | int, *, clamp: bool = False) -> None:
        self.text = str(text)
        self._clamp = clamp
        if len(self.text) > FORMULA_LENGTH_MAX:
            raise ConfigError(f"a quorum formula has at most {FORMULA_LENGTH_MAX} characters")
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise ConfigError(f"quorum formula {self.text!r}: {error.msg}") from error
        for members in range(1, INSTANCE_ID_MAX + 1):
            got = self._floor(members, members // 2 + 1)
            if not clamp and not 1 <= got <= INSTANCE_ID_MAX:
                if self.number is not None:
                    raise ConfigError(
                        "the value must be greater than zero and less than maximal number of replicas"
                    )
                raise ConfigError(
                    f"the formula is evaluated to the quorum {got} for replica number {members}, "
                    f"which is out of range [1;{INSTANCE_ID_MAX}]"
                )

    def _floor(self, members: int, synchro_quorum: int) -> int:
        try:
            variables = {"N": members, "Q": synchro_quorum} if self._clamp else {"N": members}
            return math.floor(_evaluate(self._tree, variables))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ConfigError(f"quorum formula {self.text!r} for N = {members}: {error}") from error

    @property
    def number(self) -> int | None:
        """The number, if the formula is one; it does not follow the number of members then."""
        try:
            return int(self.text)
        except ValueError:
            return None

    @cache  # noqa: B019 - at most 31 x 31 results an instance, and few formulas live
    def quorum(self, members: int, synchro_quorum: int = 0) -> int:
        """Instances needed when `members` are registered (counted as 1 if none). In 1..31."""
        return min(max(self._floor(max(1, members), synchro_quorum), 1), int(INSTANCE_ID_MAX))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuorumFormula) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"QuorumFormula({self.text!r})"
