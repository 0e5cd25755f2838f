"""The name of code, as a config gives it -> the class or function itself, and what arguments it takes."""

import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from utils.messages import UserError


def import_object(path: str, where: str = "") -> Any:
    """Imports `package.module.name`. where: the setting that names it, for the message.

    Raises UserError where there is no such module or name, or the module needs a package that is not installed; any
    other error inside of the module is its author's, and is raised as it is.
    """
    prefix = f"{where}: " if where else ""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{prefix}'{path}' is no import path; one looks like torch.optim.AdamW")
    module, names = _import_longest(parts, prefix)
    value: Any = module
    for index, name in enumerate(names):
        if not hasattr(value, name):
            owner = ".".join(parts[: len(parts) - len(names) + index])
            raise UserError(f"{prefix}{owner} has no '{name}'{did_you_mean(name, dir(value))}")
        value = getattr(value, name)
    return value


def _import_longest(parts: list[str], prefix: str) -> tuple[Any, list[str]]:
    """-> the module that the longest beginning of the path names, and the names that are left."""
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            return importlib.import_module(name), parts[end:]
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if name == missing or name.startswith(missing + "."):
                continue  # a class within a module, or no such module: the next shorter name tells
            raise UserError(
                f"{prefix}{name} needs the package '{missing.split('.')[0]}', which is not installed"
            ) from error
    raise UserError(f"{prefix}no module '{parts[0]}' to import {'.'.join(parts)} from")


def accepts(callable_: Callable[..., Any]) -> set[str] | None:
    """The names of the arguments that it takes; None where it takes any (`**kwargs`, or no signature to read)."""
    try:
        parameters = inspect.signature(callable_).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in named}


def check_arguments(
    callable_: Callable[..., Any], arguments: Mapping[str, Any], where: str, given: Iterable[str] = ()
) -> None:
    """Raises UserError where `arguments` has a name that it does not take, or lacks one that it needs.

    where: the setting that holds them, such as "optimizer". given: names that Liftoff itself passes; a config may not.
    """
    given = list(given)
    takes = accepts(callable_)
    called = getattr(callable_, "__name__", str(callable_))
    problems = [
        unknown_argument(called, name, takes - set(given))
        for name in arguments
        if takes is not None and name not in takes
    ]
    problems += [f"{called} gets '{name}' from Liftoff itself; leave it out" for name in arguments if name in given]
    if takes is not None:
        parameters = inspect.signature(callable_).parameters
        needed = [name for name in parameters if name in takes and parameters[name].default is inspect.Parameter.empty]
        lacking = [name for name in needed if name not in arguments and name not in given]
        # Bound to nothing, a first positional argument such as an optimizer's `params` may go by any name.
        problems += [f"{called} needs '{name}'" for name in lacking]
    if problems:
        raise UserError("\n".join(f"{where}: {problem}" for problem in problems))


def unknown_argument(called: str, name: str, takes: Collection[str]) -> str:
    """The message for an argument that is not taken: with the nearest one, or all of them."""
    near = did_you_mean(name, takes)
    listed = f"; it takes {', '.join(sorted(takes))}" if takes else "; it takes no arguments"
    return f"{called} takes no '{name}'{near or listed}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing where none is near."""
    public = [other for other in names if not other.startswith("_")]
    lower = {other.lower(): other for other in public}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[near[0]]}'?" if near else ""
