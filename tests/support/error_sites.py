"""What the errors of the package are made from: the expressions in their texts, by its source.

A place is a call that makes an error, or one that changes or carries an error's text.  What stands
there is taken apart; a parameter is followed to every call of its function, a local name to what is
assigned to it, until an expression is left that only a reader can judge.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from support.sources import PACKAGE, tree_of

_ERRORS = {
    *("StandfastError", "ConfigError", "DataError", "ConflictError"),
    *("Unavailable", "DeadlineExceeded", "CorruptData", "MigrationError"),
}
#: What carries a text to the place where the error is made of it: the arguments that do, by place.
_CARRIERS = {
    **dict.fromkeys(_ERRORS, (0,)),
    "about": (0,),
    "Refusal": (0, 1),
    "Problem": (0, 1),
    "Outcome": (4, 5),
}
#: Their first argument is the code.
_CODE_FIRST = {"fail", "Problem", "Refusal"}
_TEXTS = {"message", "hint", "path", "where", "code"}
#: Parameters of these types are numbers and places; what is in them needs no reader.
_PLAIN = re.compile(r"(int|float|bool|Path)( \| None)?")
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | None


@dataclass(frozen=True)
class Found:
    """An expression (or a constant) in the texts of an error, and where it stands."""

    module: str
    line: int
    text: str
    is_code: bool
    is_constant: bool


@dataclass(frozen=True)
class _Call:
    module: str
    inside: Function
    node: ast.Call


class Sites:
    """Every place of a package where an error is made.  `known(module, expression)` says which
    expressions need not be followed further."""

    def __init__(self, known: Callable[[str, str], bool], package: Path = PACKAGE) -> None:
        self._known = known
        self._calls: dict[str, list[_Call]] = {}
        self._defined: Counter[str] = Counter()
        #: The codes in tables of errors, and those that a text is carried with to its error.
        self.carried_codes: set[str] = set()
        self._hints: list[tuple[str, Function, ast.expr]] = []
        for path in sorted(package.rglob("*.py")):
            module = path.relative_to(package).as_posix().removesuffix(".py")
            self._collect(module, tree_of(path), None)

    def _collect(self, module: str, node: ast.AST, inside: Function) -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Call(func=func):
                    self._calls.setdefault(_last(func), []).append(_Call(module, inside, child))
                    self._note_codes(child)
                case ast.Tuple(elts=[ast.Name(name), ast.Constant(str(code)), *_]):
                    self.carried_codes |= {code} if name in _ERRORS else set()
                case ast.Assign(targets=[ast.Attribute(attr="hint" | "args")], value=value):
                    self._hints.append((module, inside, value))
                case _:
                    pass
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                self._defined[child.name] += 1
                self._collect(module, child, child)
            else:
                self._collect(module, child, inside)

    def _note_codes(self, call: ast.Call) -> None:
        given = [option.value for option in call.keywords if option.arg == "code"]
        if _last(call.func) in _CODE_FIRST:
            given += call.args[:1]
        for code in given:
            self.carried_codes |= {str(code.value)} if isinstance(code, ast.Constant) else set()

    def calls(self) -> Iterator[_Call]:
        """The calls that make an error: of a class of errors, or with a hint."""
        for name, calls in self._calls.items():
            for call in calls:
                # A class in a local variable; functions that take a hint are followed inside.
                hinted = any(option.arg == "hint" for option in call.node.keywords)
                if name in _CARRIERS or (hinted and not self._defined[name]):
                    yield call

    def found(self) -> Iterator[Found]:
        """What stands in the texts of every error, each expression of a function once."""
        seen: set[tuple[str, int, str, bool]] = set()
        for call in self.calls():
            for place in _CARRIERS.get(_last(call.node.func), (0,)):
                for argument in call.node.args[place : place + 1]:
                    yield from self._leaves(call.module, call.inside, argument, seen=seen)
            for option in call.node.keywords:
                if option.arg in _TEXTS or option.arg is None:
                    yield from self._leaves(
                        *(call.module, call.inside, option.value),
                        seen=seen,
                        is_code=option.arg == "code",
                    )
        for module, inside, value in self._hints:
            if module != "errors":
                yield from self._leaves(module, inside, value, seen=seen)

    def _leaves(
        self,
        module: str,
        inside: Function,
        expr: ast.expr,
        *,
        seen: set[tuple[str, int, str, bool]],
        is_code: bool = False,
    ) -> Iterator[Found]:
        parts: list[ast.expr] | None = None
        match expr:
            case ast.Constant():
                yield Found(module, expr.lineno, str(expr.value), is_code, is_constant=True)
                return
            case ast.JoinedStr(values=parts):
                pass
            case ast.FormattedValue(value=value) | ast.Starred(value=value):
                parts = [value]
            case ast.IfExp(body=body, orelse=orelse):
                parts = [body, orelse]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                parts = [left, right]
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts):
                pass
            case _:
                pass
        if parts is not None:
            for part in parts:
                yield from self._leaves(module, inside, part, seen=seen, is_code=is_code)
            return
        text = ast.unparse(expr)
        mark = (module, inside.lineno if inside else 0, text, is_code)
        if mark in seen:
            return
        seen.add(mark)
        if isinstance(expr, ast.Name) and inside is not None and not self._known(module, text):
            sources = [*self._given(module, inside, expr.id), *_assigned(module, inside, expr.id)]
            for source in sources:
                yield from self._leaves(*source, seen=seen, is_code=is_code)
            if sources:
                return
        yield Found(module, expr.lineno, text, is_code, is_constant=False)

    def _given(
        self, module: str, function: ast.FunctionDef | ast.AsyncFunctionDef, name: str
    ) -> Iterator[tuple[str, Function, ast.expr]]:
        """What the calls of a function give for a parameter, and its default."""
        arguments = function.args
        everything = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        for each in everything:
            kind = ast.unparse(each.annotation) if each.annotation is not None else ""
            if each.arg == name and _PLAIN.fullmatch(kind):
                yield module, None, ast.Constant("a number or a place", lineno=each.lineno)
                return
        plain = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
        if name not in plain and name not in [each.arg for each in arguments.kwonlyargs]:
            return
        defaults = dict(zip(reversed(plain), reversed(arguments.defaults), strict=False))
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default is not None:
                defaults[each.arg] = default
        if name in defaults:
            yield module, None, defaults[name]
        shared = self._defined[function.name] > 1
        if shared and not function.name.startswith("_"):
            # Its calls cannot be told from those of another function: a reader judges the name.
            yield module, None, ast.Name(name, lineno=function.lineno)
        place = plain.index(name) if name in plain else None
        if place is not None and plain[0] in ("self", "cls"):
            place -= 1
        for call in self._calls.get(function.name, ()):
            if (shared or function.name.startswith("_")) and call.module != module:
                continue
            for option in call.node.keywords:
                if option.arg == name:
                    yield call.module, call.inside, option.value
            if place is not None and place < len(call.node.args):
                yield call.module, call.inside, call.node.args[place]


def _last(func: ast.expr) -> str:
    match func:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _assigned(
    module: str, function: ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, Function, ast.expr]]:
    """What a function assigns to a local name; a loop's or a pattern's names are not followed."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _matched(module, function, target, value, name)
            case (
                ast.AugAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
                | ast.AnnAssign(target=target, value=ast.expr() as value)
            ):
                yield from _matched(module, function, target, value, name)
            case _:
                pass


def _matched(
    module: str, inside: Function, target: ast.expr, value: ast.expr, name: str
) -> Iterator[tuple[str, Function, ast.expr]]:
    match target, value:
        case ast.Name(found), _ if found == name:
            yield module, inside, value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for one, other in zip(targets, values, strict=True):
                yield from _matched(module, inside, one, other, name)
        case ast.Tuple(elts=targets), _:
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                yield module, inside, value
        case _:
            pass
