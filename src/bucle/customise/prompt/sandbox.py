"""Jinja2 templates that anyone may have written: read before they are run, and run within limits.

What a template may hold is a list of what is allowed, not of what is forbidden: values, conditions, loops, a few
filters, tests and methods. Every loop and every value made is counted, so that none takes the machine's time or memory.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

from jinja2 import StrictUndefined, Template, nodes, pass_environment
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

from bucle.customise.prompt.sandbox_filters import FILTERS_HERE
from bucle.customise.prompt.sandbox_values import (
    MAX_TEXT,
    Budget,
    Each,
    Fault,
    Replace,
    bounded_range,
    budget_now,
    calculate,
    charge,
    concat,
    counted,
    flat,
    item_of,
    moment,
    printed,
)

__all__ = ["MAX_TEXT", "Fault", "compiled", "rendered", "uses"]

MAX_SOURCE = 200_000  # characters of one template
MAX_NODES = 5_000  # of its syntax tree
MAX_DEPTH = 60  # of it; Python compiles no deeper nesting of blocks than twenty


def rendered(template: Template, values: Mapping[str, Any]) -> str:
    """The text that `template` (of `compiled`) makes of `values`. Raises Fault."""
    token = budget_now.set(Budget())
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(values):
            size += len(piece)
            if size > MAX_TEXT:
                raise Fault(f"its text is longer than {MAX_TEXT:,} characters.", "Put less into it.")
            pieces.append(piece)
    except Exception as error:  # a template of unknown origin may raise anything
        raise _fault(error) from None
    finally:
        budget_now.reset(token)
    return "".join(pieces)


@lru_cache(maxsize=512)
def compiled(source: str, known: frozenset[str]) -> Template:
    """A template ready to be rendered with values for the names in `known`. Raises Fault with the line of the first
    thing that cannot be meant: a name that is not known, a filter that is not allowed, a syntax error."""
    try:
        tree = _tree(source, known)
        return _environment().from_string(_Counting().visit(tree))
    except Exception as error:  # of the parser, or of Python over what it made
        raise _fault(error) from None


@lru_cache(maxsize=512)
def uses(source: str) -> frozenset[str]:
    """The names that a template takes from outside. Raises Fault for one that cannot be read."""
    from jinja2 import meta

    try:
        tree = _parsed(source)
        _check(tree)
        return frozenset(meta.find_undeclared_variables(tree))
    except Exception as error:
        raise _fault(error) from None


def _fault(error: Exception) -> Fault:
    """What is wrong, as a Fault with its line where that is known."""
    line = _line(error)
    if isinstance(error, Fault):
        error.line = error.line or line
        return error
    if isinstance(error, RecursionError | MemoryError | SyntaxError):
        return Fault("it is nested too deep.", "Write it flatter.", line)
    if isinstance(error, UndefinedError):
        said = (error.message or "something in it has no value").rstrip(".")
        return Fault(f"{said}.", "Correct the name, or give it a value first with `{% set … %}`.", line)
    if isinstance(error, SecurityError):
        return Fault(f"{error.message}.", "A template prints values; it cannot reach into them.", line)
    said = str(error)[:160].rstrip(".") or type(error).__name__
    return Fault(f"it cannot be rendered: {said}.", "Check the types of its values.", line)


def _parsed(source: str) -> nodes.Template:
    if len(source) > MAX_SOURCE:
        raise Fault(f"it has more than {MAX_SOURCE:,} characters.", "A prompt is a page; put data into inputs.")
    try:
        return _environment().parse(source)
    except TemplateSyntaxError as error:
        hint = "Text with braces that are no template: {% raw %}…{% endraw %}."
        raise Fault(f"{(error.message or 'not a template').rstrip('.')}.", hint, error.lineno) from None
    except ValueError:  # of a number with thousands of digits
        raise Fault("a number in it is beyond all bounds.", "Calculate with smaller ones.") from None


def _tree(source: str, known: frozenset[str]) -> nodes.Template:
    from jinja2 import meta

    tree = _parsed(source)
    _check(tree)
    unknown = meta.find_undeclared_variables(tree) - known
    named = [n for n in tree.find_all(nodes.Name) if n.name in unknown and n.ctx == "load"]
    if named:
        first = min(named, key=lambda n: n.lineno)
        raise Fault(f"`{first.name}` is no input of this prompt.", _nearest(first.name, known), first.lineno)
    return tree


def _check(tree: nodes.Template) -> None:
    """Only what is allowed stands in the tree. Walked without recursion: it may be of any depth."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            what = f"more than {MAX_NODES:,} parts" if count > MAX_NODES else f"more than {MAX_DEPTH} levels"
            raise Fault(f"it has {what}.", "Write it simpler; text without `{{` and `{%` may be long.", node.lineno)
        if not isinstance(node, _ALLOWED):
            what = _CALLED.get(type(node).__name__, f"`{type(node).__name__.lower()}`")
            raise Fault(f"{what} cannot stand in a prompt.", "It may print values, test them and loop over them.",
                        node.lineno)
        if isinstance(node, nodes.Name) and node.name == "self":
            raise Fault("`self` cannot be reached from a prompt.", "Give the input another name.", node.lineno)
        if isinstance(node, nodes.For) and node.recursive:
            raise Fault("a recursive loop cannot stand in a prompt.", "Write the loop out.", node.lineno)
        if isinstance(node, nodes.Filter) and node.name not in FILTERS_HERE:
            raise Fault(f"there is no filter `{node.name}` here.", _nearest(node.name, FILTERS_HERE), node.lineno)
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise Fault(f"there is no test `{node.name}` here.", _nearest(node.name, _TESTS), node.lineno)
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise Fault(f"`{node.attr}` cannot be reached from a prompt.", "Names that begin with `_` are closed.",
                        node.lineno)
        if isinstance(node, nodes.Call) and not _callable(node):
            raise Fault("only `range` and methods of texts can be called in a prompt.",
                        f"Known: {', '.join(sorted(_TEXT_METHODS))}.", node.lineno)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]


def _callable(node: nodes.Call) -> bool:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        return False
    if isinstance(node.node, nodes.Name):
        return node.node.name == "range"
    return isinstance(node.node, nodes.Getattr) and node.node.attr in _TEXT_METHODS | _MAP_METHODS | {"cycle"}


class _Counting(NodeTransformer):
    """Sends every loop, every value that is put together and every comparison through what counts it."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_each", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _through("_moment", node.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through("_charge", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _through("_flat", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _through("_flat", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through("_flat", node) if node.ctx == "load" else node


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """Attributes are items of mappings, the loop's own, and a few methods; nothing else of any object."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping):
            if attribute in obj:
                return obj[attribute]
            if attribute in _MAP_METHODS:
                return counted(getattr(obj, attribute))
        elif isinstance(obj, str) and attribute in _TEXT_METHODS:
            return counted(getattr(str(obj), attribute) if attribute != "replace" else Replace(obj))
        elif isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return item_of(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return calculate(operator, left, right)


@pass_environment  # so that Jinja folds no constants while it compiles, outside the limits of a rendering
def _finalized(environment: Any, value: Any) -> str:
    return printed(value)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    made = _Environment(undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_finalized,
                        trim_blocks=True, lstrip_blocks=True, cache_size=0)
    made.globals = {"range": bounded_range}
    made.filters = {name: FILTERS_HERE[name] for name in FILTERS_HERE} | {
        "_each": Each, "_concat": concat, "_flat": flat, "_moment": moment,
        "_charge": charge}
    made.tests = {name: TESTS[name] for name in _TESTS}
    return made


_TESTS = frozenset({"boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge", "greaterthan",
                    "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none",
                    "number", "odd", "sequence", "string", "true", "undefined", "upper", "==", "!=", ">", ">=", "<",
                    "<="})
_TEXT_METHODS = frozenset({"capitalize", "count", "endswith", "find", "lower", "lstrip", "removeprefix", "removesuffix",
                           "replace", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"})
_MAP_METHODS = frozenset({"get", "items", "keys", "values"})
_LOOP = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "cycle", "previtem",
                   "nextitem", "depth"})
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.If, nodes.For, nodes.Assign,
    nodes.With, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
    nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow,
    nodes.Concat, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.List, nodes.Tuple, nodes.Dict,
    nodes.Pair, nodes.Keyword,
)
_CALLED = {"Include": "`{% include %}`", "Import": "`{% import %}`", "FromImport": "`{% from … import %}`",
           "Extends": "`{% extends %}`", "Block": "`{% block %}`", "Macro": "`{% macro %}`",
           "CallBlock": "`{% call %}`", "FilterBlock": "`{% filter %}`", "AssignBlock": "`{% set %}…{% endset %}`",
           "ScopedEvalContextModifier": "`{% autoescape %}`"}


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean `{near[0]}`?" if near else f"Known here: {', '.join(names)}."


def _line(error: BaseException) -> int:
    """The line of the template in which `error` was raised, as Jinja's rewritten traceback says it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename in ("<template>", "<unknown>")]
    return lines[-1] or 0 if lines else 0
