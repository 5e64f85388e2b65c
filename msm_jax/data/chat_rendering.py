"""Chat templates in Jinja's sandbox, with the environment that transformers gives them.

Run as a program (`python -P chat_rendering.py`), this file is the child process that compiles and renders templates
from outside, so that one that never ends or takes too much memory can be stopped. It imports only the standard library
and Jinja. It reads one JSON request per line, and writes one JSON line for each text that the request asks for.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

_MAX_TEXT = 1 << 26  # characters of a rendered chat
_MAX_MEMORY = 2 << 30  # bytes

Spans = list[tuple[int, int]]


class GenerationTag(jinja2.ext.Extension):
    """The tag `{% generation %}`, which records the spans of its blocks (the assistant's words) in the text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def __init__(self, environment: jinja2.Environment):
        super().__init__(environment)
        self._written: list[str] | None = None
        self._spans: Spans = []

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Wraps the block in a call of `_note`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: jinja2.runtime.Macro) -> str:
        text = caller()
        if self._written is not None:
            begin = sum(map(len, self._written))
            self._spans.append((begin, begin + len(text)))
        return text

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> tuple[str, Spans]:
        """Returns the text and the spans of its generation blocks."""
        written: list[str] = []
        spans: Spans = []
        self._written, self._spans = written, spans
        try:
            written.extend(template.generate(**variables))
        finally:
            self._written = None
        return "".join(written), spans


class _Dict:
    """A `dict(...)` that gives templates no access to its class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(jinja2.utils.Namespace):
    """A `namespace(...)` that refuses names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=...)` is allowed
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes characters that are markup in HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Rendering:
    """A compiled template.

    Attributes:
      dated: whether the template asked for today's date in the last text.
    """

    def __init__(self, source: str):
        """Compiles a template; raises `jinja2.TemplateSyntaxError` if it is not valid."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(
            raise_exception=_raise_exception, strftime_now=self._strftime_now, dict=_Dict(), namespace=_Namespace
        )
        self.dated = False
        self._template = environment.from_string(source)
        self._tag = next(e for e in environment.extensions.values() if isinstance(e, GenerationTag))

    def _strftime_now(self, form: str) -> str:
        self.dated = True
        return datetime.datetime.now().strftime(form)

    def render(self, variables: dict[str, Any]) -> tuple[str, Spans]:
        """Returns the text and the spans of its generation blocks; raises whatever the template raises."""
        self.dated = False
        return self._tag.render(self._template, variables)


def problem(error: BaseException) -> str:
    """Describes the error of a template in one line, which begins with the line number in the template if known."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.lineno}: {error.message}"
    known = isinstance(error, (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError))
    text = " ".join(str(error).split()) if known else ""
    return f" {text[:300] or type(error).__name__}"


def answers(request: dict[str, Any], compiled: dict[str, Rendering]) -> Iterator[dict[str, Any]]:
    """Yields {"text", "spans", "dated"} for each text that is asked for, or {"problem"} as the last answer.

    Args:
      request: {"source", "messages", "variables", "ask": [[number of messages, add_generation_prompt], ...]}; if this
        file runs as a program, also "seconds", the limit of CPU time for each text.
      compiled: the templates that are compiled already, by source; a new one is added.
    """
    try:
        source = request["source"]
        if source not in compiled:
            compiled[source] = Rendering(source)
        if not request["ask"]:
            yield {}
        for count, prompt in request["ask"]:
            variables = {
                **request["variables"],
                "messages": request["messages"][:count],
                "add_generation_prompt": prompt,
            }
            text, spans = compiled[source].render(variables)
            if len(text) > _MAX_TEXT:
                yield {"problem": f" it writes more than {_MAX_TEXT:,} characters"}
                return
            yield {"text": text, "spans": spans, "dated": compiled[source].dated}
    except Exception as error:  # a template is a program of the user's, so it may raise anything
        yield {"problem": problem(error)}


def main() -> None:
    """Answers requests until standard input ends."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    # Ctrl-C is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    compiled: dict[str, Rendering] = {}
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        given = answers(request, compiled)
        while True:
            # The limit counts this process's CPU time, so that a busy machine refuses no template. The signal ends the
            # process, whatever the template is doing.
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
            answer = next(given, None)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if answer is None:
                break
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
