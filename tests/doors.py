"""A door of tools/ called as from the command line, but in this process."""

import importlib

import pytest

from configs.command_line import at_the_door


def door(module: str, *arguments: object) -> int:
    """python -m tools.<module> arguments. -> exit code; what it printed is for `capsys`"""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr("sys.argv", [f"tools/{module}.py", *map(str, arguments)])
        at_the_door(importlib.import_module(f"tools.{module}").main)
    return int(left.value.code or 0)
