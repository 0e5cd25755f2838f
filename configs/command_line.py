"""The front door of every script: command line -> checked config and flags, and errors in one line.

    python train.py CONFIG [key.path=value ...] [--restart] [--print-config]

What the user can mend ends with `error: ...` and exit code 2; anything else is a bug and shows its traceback.
"""

import argparse
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.loading import load_config
from configs.places import REPOSITORY
from configs.schema import Config
from utils.messages import UserError, is_first_rank
from utils.yaml_text import KeyPath
from utils.yaml_writing import to_yaml

_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")
_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run_stage(
    main: Callable[[Config, argparse.Namespace], Any], description: str | None, flags: Mapping[str, str] | None = None
) -> NoReturn:
    """Reads the command line and the config, runs `main(config, flags)`, and leaves with its exit code.

    description: the script's docstring, shown by --help. flags: {name: what it does} of the script's own switches; each
    is a boolean in the Namespace that `main` gets. DEBUG=1 in the environment is --debug where the script has it.
    """

    def stage() -> Any:
        arguments = parse(sys.argv[1:], description or "", flags or {})
        config = load_config(arguments.config, arguments.overrides)
        if arguments.print_config:
            print(printed(config), end="")
            return 0
        return main(config, arguments)

    at_the_door(stage)


def at_the_door(run: Callable[[], Any]) -> NoReturn:
    """Runs a script and leaves with its exit code; what the user can mend is one line, and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a log in ASCII is no reason to stop a run
    show_traceback = "--traceback" in sys.argv
    try:
        sys.exit(run() or 0)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # `... | head`: whoever read this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        problem = str(error) if isinstance(error, UserError) else _system_problem(error)
        if problem is None:
            raise
        if show_traceback:
            traceback.print_exc()
        _say("error: " + problem.replace("\n", "\nerror: "))
        sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Complains as the rest of Liftoff does."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError in place of leaving."""
        raise UserError(f"{message}; see --help")


def parse(argv: Sequence[str], description: str, flags: Mapping[str, str]) -> argparse.Namespace:
    """-> config (a path), overrides, and a boolean for each flag. Raises UserError for what it does not understand."""
    script = _script()
    switches = " ".join(f"[--{_dashed(flag)}]" for flag in flags)
    parser = Parser(
        prog=f"python {script}",
        usage=f"python {script} CONFIG [key.path=value ...] {switches}".rstrip(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="All settings: configs/default_config.yaml",
    )
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG", help="the config file, then settings to override: key.path=value"
    )
    parser.add_argument("-c", "--config", metavar="CONFIG", dest="named", help="the same, by name")
    for flag, text in flags.items():
        parser.add_argument(f"--{_dashed(flag)}", dest=flag, action="store_true", help=text)
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting and where it comes from, and stop"
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    arguments, unknown = parser.parse_known_intermixed_args(list(argv))
    for word in unknown:
        if _OVERRIDE.match(word.lstrip("-")):
            raise UserError(f"unknown option '{word}'; settings have no dashes: {word.lstrip('-')}")
        raise UserError(f"unknown option '{word}'; see --help")
    files = [word for word in arguments.words if not _OVERRIDE.match(word) or Path(word).is_file()]
    arguments.overrides = [word for word in arguments.words if word not in files]
    files = [*filter(None, [arguments.named]), *files]
    if not files:
        raise UserError(f"no config given: python {script} CONFIG, such as configs/quickstart.yaml")
    if len(files) > 1:
        raise UserError(f"one config, please, got {' and '.join(files)}; settings to override look like key.path=value")
    arguments.config = files[0]
    if "debug" in flags and os.environ.get("DEBUG", "").lower() not in ("", "0", "false"):
        arguments.debug = True
    return arguments


def again(arguments: argparse.Namespace) -> str:
    """The config and the overrides as they were typed, to stand behind the command of the next stage."""
    return shlex.join([arguments.config, *arguments.overrides])


def to_generate(config: Config, typed: str) -> list[str]:
    """The command that lets a model write; none for one that sees both sides of a token."""
    prompts = "" if config.generation.prompts_path else " generation.prompts_path=PROMPTS.txt"
    return [] if config.objective.name == "masked" else [f"python generation.py {typed}{prompts}"]


def printed(config: Config) -> str:
    """The resolved config as YAML; beside what is not the default, where it was stated."""

    values, defaults = config.model_dump(), Config().model_dump()

    def origin(key: KeyPath) -> str:
        value: Any = values
        default: Any = defaults
        for part in key:
            value = value[part]
            default = default.get(part) if isinstance(default, dict) else None
        is_stated = key in config._origins and value != default and not isinstance(value, dict)
        return config._origins[key] if is_stated else ""

    return to_yaml(values, origin)


def _script() -> str:
    """The script as it is called: train.py, or -m tokenizer.train_hf_tokenizer."""
    path = Path(sys.argv[0]).resolve()
    if path.parent != REPOSITORY and path.is_relative_to(REPOSITORY):
        return "-m " + ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    return path.name


def _dashed(flag: str) -> str:
    return flag.replace("_", "-")


def _system_problem(error: BaseException) -> str | None:
    """A full disk or a folder that may not be written is the user's to mend, wherever it shows."""
    if isinstance(error, OSError) and error.errno in _MENDABLE:
        place = f": {error.filename}" if error.filename else ""
        return f"{os.strerror(error.errno).lower()}{place}"
    return None


def _say(text: str) -> None:
    """On standard error, once for all ranks."""
    if is_first_rank():
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
