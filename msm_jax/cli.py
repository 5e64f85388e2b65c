"""The command line of every entry point: flags, exit status, logging, and the start of JAX.

An entry point declares its flags with `config_flag`, `workdir_flag` and absl's own `flags.DEFINE_…`, and ends with
`cli.run(main)`, or with `cli.run_on_hosts(main)` where it runs on several hosts. Only this module turns errors into an
exit status: 0 for done, 1 for a failure during work, 2 for refused input, 75 for preemption, after a checkpoint was
saved where there is one to save, 130 for an interrupt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import mirror, settings, termination
from msm_jax.foundation.termination import Terminated
from msm_jax.parallel import backend, distributed, supervisor

# Flags declared through this module belong to the entry point that calls it, which lists them in its --help.
flags.disclaim_key_flags()

_HELP = {"-h", "-help", "--help", "-helpfull", "--helpfull", "-helpshort", "--helpshort"}


def config_flag() -> flags.FlagHolder[Any]:
    """Declares `--config=FILE[:ARG]` and overrides such as `--config.a.b=3`; the value is a ConfigDict."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file, and after a colon the argument of its get_config(). Override: --config.a=3",
    )


def workdir_flag() -> flags.FlagHolder[str | None]:
    """Declares `--workdir=DIR`; an entry point that needs it calls `require`."""
    return flags.DEFINE_string("workdir", None, "The directory or URL of this run; running again continues it.")


def require(holder: flags.FlagHolder[Any]) -> Any:
    """Returns the value of a flag that must be given.

    Raises:
        InputError: the flag is missing.
    """
    if holder.value is None:
        raise InputError(f"--{holder.name} is missing; give --{holder.name}=...")
    return holder.value


def run(main: Callable[[], None]) -> NoReturn:
    """Parses the command line, sets up JAX and logging, calls `main()` and exits with its status."""
    sys.unraisablehook = _unraisable
    try:
        ended = status(main, sys.argv)
    except Exception:  # a defect, for which the other hosts must not wait
        if not distributed.is_started():
            raise
        traceback.print_exc()
        ended = 1
    # The status is decided. A signal that arrives while Python ends would hide it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if ended and distributed.is_started():
        # JAX would wait five minutes at exit for hosts that do not come.
        sys.stdout.flush()
        os._exit(ended)
    sys.exit(ended)


def run_on_hosts(main: Callable[[], None]) -> NoReturn:
    """Does the work of `run`, on several hosts in a child process, since JAX ends that when another host dies."""
    with contextlib.suppress(InputError):  # `main` meets it again, and `run` says it in one line
        if distributed.processes() > 1 and not supervisor.is_child():
            sys.exit(supervisor.run([sys.executable, *sys.orig_argv[1:]], distributed.processes()))
    run(main)


def status(main: Callable[[], None], argv: list[str]) -> int:
    """Does the work of `run` and returns its exit status.

    An expected failure prints one line on stderr; only a defect of this package raises, with a traceback.
    """
    try:
        if _HELP & set(argv[1:]):
            print(f"{sys.modules['__main__'].__doc__ or ''}\n{flags.FLAGS.main_module_help()}")
            return 0
        with _terminable():
            parse_flags(argv)
            set_up()
            main()
        sys.stdout.flush()
        return 0
    except InputError as error:
        return _say("refused", error, 2)
    except WorkError as error:
        return _say("failed", error, 1)
    except Preempted as error:
        return _say("preempted", error, 75)
    except Terminated:
        return _say("preempted", "stopped by SIGTERM; run the same command again to continue", 75)
    except KeyboardInterrupt:
        return _say("interrupted", "run the same command again to continue", 130)
    except BrokenPipeError:
        # The reader of stdout (`| head`) has ended. 141 is the exit status of a C program that SIGPIPE ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def load_config(arguments: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that the flags {"config": "FILE[:ARG]", "config.FIELD": value, ...} name.

    Raises:
        InputError: as `parse_flags`.
    """
    argv = ["", *(f"--{name}={value}" for name, value in arguments.items())]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    parse_flags(argv, values)
    return values.config


def parse_flags(argv: list[str], values: flags.FlagValues | None = None) -> None:
    """Parses `argv` into `values`, or into `flags.FLAGS` without them.

    Raises:
        InputError: a flag or field is unknown (the message names the nearest valid one) or has a wrong type, or the
            config file is missing or raises.
    """
    values = flags.FLAGS if values is None else values
    if "config" in values:
        _check_config(argv)
    try:
        rest = values(argv)
    except (flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(_one_line(error)) from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; every argument is a flag (--name=value)")


def _terminable() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which SIGTERM raises Terminated, unless something else handles it or it is ignored."""
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_free and threading.current_thread() is threading.main_thread():
        return termination.raising()
    return contextlib.nullcontext()


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    """Reports an error that cannot be raised, except for reads that Orbax abandons when another one fails."""
    if not (isinstance(problem.exc_value, RuntimeError) and str(problem.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(problem)


def set_up() -> None:
    """Sets up the log with timestamps, silences libraries, and keeps compiled programs between processes."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("msm_jax").setLevel(logging.INFO)
    # Orbax logs a traceback for each thread that finds the disk full. It abandons coroutines and, if one array of a
    # checkpoint is damaged, the reads of the others. The one line of our error suffices.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    # A process that is killed while it writes a cache entry leaves a broken one. JAX recompiles and warns each time.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    backend.keep_programs()


def prepare_backend(devices: int, threads: int) -> None:
    """Calls `set_up` and `parallel.backend.prepare`; must be called before the first use of a JAX device."""
    set_up()
    backend.prepare(devices, threads)


class _Formatter(logging.Formatter):
    """Writes a line with its time; what a user gave as a URL is named so."""

    def format(self, record: logging.LogRecord) -> str:
        return mirror.named(super().format(record))


def _say(kind: str, error: object, code: int) -> int:
    print(f"{kind}: {_one_line(error)}", file=sys.stderr, flush=True)
    return code


def _one_line(error: object) -> str:
    # str() of a KeyError is the repr of its argument.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return mirror.named(" ".join(str(text).split()))


def _check_config(argv: list[str]) -> None:
    """Loads the config file before absl does, to report an error in it or in an override in one line."""
    path = None
    overrides = []
    for i, word in enumerate(argv):
        name, _, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            continue
        if name == "config":
            path = value if "=" in word else (argv[i + 1] if i + 1 < len(argv) else "")
        elif name.removeprefix("no").startswith("config."):
            overrides.append(name)
    if path is None:
        if overrides:
            raise InputError(
                f"--{overrides[0]} overrides a config that is not given; add --config=FILE before it"
            )
        return
    config = _load_config(path)
    for name in overrides:
        _check_override(config, name)


def _load_config(path: str) -> ml_collections.ConfigDict:
    file, *arg = path.split(":", 1)
    if not Path(file).is_file():
        raise InputError(f"--config={path}: no such file {file!r}")
    try:
        config = runpy.run_path(file)["get_config"](*arg)
    except Exception as error:  # a config file is a program of the user's, so it may raise anything
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = [error.lineno]
        where = f"{file}:{lines[-1]}" if lines else file
        raise InputError(f"--config={path}: {where}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            f"--config={path}: get_config() must return a ConfigDict, not {type(config).__name__}"
        )
    return config


def _check_override(config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses `config.a.b` if the config has no such field; names the nearest field of the same level."""
    at: Any = config
    done = "config"
    parts = name.split(".")[1:]
    for part in parts:
        key = part.split("[", 1)[0]
        if not isinstance(at, ml_collections.ConfigDict):
            if "[" in done:
                return
            raise InputError(f"--{name}: {done} is {at!r}, which has no field {part}")
        if key not in at:
            raise InputError(f"--{done}.{part}: unknown field; {settings.nearest(key, at.keys())}")
        at, done = at[key], f"{done}.{part}"
