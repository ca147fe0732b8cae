"""The values of a recipe's variables: ``eval(...)`` is arithmetic here, and nothing else."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_TWO: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_ONE: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_CALLS: dict[str, Callable[..., Any]] = {
    "min": min, "max": max, "round": round, "abs": abs, "int": int, "float": float,
}  # fmt: skip
_DEEP = 50  # variables that name each other


def value_of(value: Any, variables: Mapping[str, Any], depth: int = 0) -> Any:
    """The value, with every ``eval(...)`` in it, also inside of lists and mappings, replaced by what it comes to.

    Args:
        value: A value of the recipe.
        variables: The recipe's variables by name, which may be expressions, too.
        depth: How many expressions have led here.

    Raises:
        ValueError: If an expression is no arithmetic of numbers and variables, or names itself.
    """
    if isinstance(value, list):
        return [value_of(one, variables, depth) for one in value]
    if isinstance(value, dict):
        return {key: value_of(one, variables, depth) for key, one in value.items()}
    if not isinstance(value, str) or not (value.startswith("eval(") and value.endswith(")")):
        return value
    text = value[5:-1].strip()
    if depth > _DEEP:
        raise ValueError(f"the variables of the recipe name each other in a circle, as in {value!r}; give one a number")
    if text in variables:  # it may be a text or a list
        return value_of(variables[text], variables, depth + 1)
    try:
        return _number(ast.parse(text, mode="eval").body, variables, depth)
    except (SyntaxError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{value!r} has no value: {str(error)[:100]}; write the number") from error


def _number(node: ast.expr, variables: Mapping[str, Any], depth: int) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in variables:
            raise ValueError(f"the recipe has no variable {node.id!r}, which an expression names; write the number")
        found = value_of(variables[node.id], variables, depth + 1)
        if type(found) not in (int, float):
            raise ValueError(f"an expression takes {node.id!r} for a number, and it is {str(found)[:60]!r}")
        return found
    if isinstance(node, ast.BinOp) and type(node.op) in _TWO:
        left, right = (_number(side, variables, depth) for side in (node.left, node.right))
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 64):
            raise ValueError(f"{left} ** {right} is no number that a recipe needs; write it out")
        return _TWO[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _ONE:
        return _ONE[type(node.op)](_number(node.operand, variables, depth))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords:
        return _CALLS[node.func.id](*(_number(argument, variables, depth) for argument in node.args))
    raise ValueError(f"{ast.unparse(node)[:60]!r} is no arithmetic of numbers and variables; write the number")
