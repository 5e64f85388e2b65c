"""Templates from outside: transformers' environment, and none can hang, use up memory or leave the sandbox."""

import datetime
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from msm_jax.data import template_process
from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError

CHAT = [{"role": "user", "content": "hi"}]


def rendered(source, messages=CHAT, **variables):
    return ChatTemplate(source, variables).render(messages)


def children() -> list[int]:
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    listed = subprocess.run(command, capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "chat_rendering.py" in line]


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        # One operation of the interpreter, which no Python code can interrupt; the second is folded while compiling.
        "{{ (messages|length + 8) ** (9 ** 9) }}",
        "{{ 9 ** (9 ** 9) }}",
    ],
    ids=["loops", "one operation", "while compiling"],
)
def test_a_template_that_does_not_end_is_ended(source, monkeypatch):
    monkeypatch.setattr(template_process, "LIMIT_SECONDS", 0.5)
    monkeypatch.setattr(template_process, "LIMIT_WAIT_SECONDS", 600.0)
    with pytest.raises(InputError, match=r"^chat template: it runs longer than 0\.5 seconds; correct the template"):
        rendered(source)
    assert children() == [], "the process burns on"
    assert rendered("{{ messages[0].content }}.") == "hi."


def test_one_that_is_not_let_compute_is_ended_too(monkeypatch):
    """On a busy machine, waiting for five seconds of computing takes at most a minute."""
    monkeypatch.setattr(template_process, "LIMIT_WAIT_SECONDS", 0.3)
    with pytest.raises(InputError, match=r"^chat template: it runs longer than 0\.3 seconds, on a machine that let"):
        rendered("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert children() == [], "the process burns on"


def test_the_limit_is_five_seconds_of_computing(monkeypatch):
    # However busy the machine that runs this test is.
    monkeypatch.setattr(template_process, "LIMIT_WAIT_SECONDS", 600.0)
    before = os.times()
    with pytest.raises(InputError, match="runs longer than 5 seconds"):
        rendered("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    after = os.times()
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    assert 4 < computed < 7


def test_memory_is_bounded():
    for source in ("{{ 'x' * 10 ** 11 }}", "{{ ('x' * 10 ** 7 ~ messages[0].content) * 100000 }}"):
        with pytest.raises(InputError, match=r"^chat template: "):
            rendered(source)
    with pytest.raises(InputError, match="writes more than"):
        rendered("{{ messages[0].content * 10 ** 8 }}")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__self__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__class__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self.__init__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ ('{0.__class__.__init__.__globals__}'|string).format(messages) }}",
    "{% set n = namespace(__class__=1) %}",
    "{% set n = namespace() %}{% set n.__dict__ = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages.clear() }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_refused(source):
    try:
        text = rendered(source)
    except InputError as refusal:
        text = str(refusal)
    # Jinja gives an undefined value where an attribute is unsafe: as text it is nothing, used it is an error.
    assert text == "" or (text.startswith("chat template:") and len(text.splitlines()) == 1)


def test_errors_are_one_line():
    for source, message in (
        ("{{ raise_exception('roles\nmust alternate') }}", "chat template: roles must alternate; correct"),
        ("x\n{% for %}", "chat template:2: "),
        ("{{ 1 / 0 }}", "chat template: division by zero"),
        ("{{ messages[7].content.x }}", "chat template: "),
        ("{{ messages[0] + 1 }}", "chat template: "),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "chat template: RecursionError"),
    ):
        with pytest.raises(InputError) as refusal:
            rendered(source)
        assert str(refusal.value).startswith(message)
        assert len(str(refusal.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"^there/chat_template\.jinja:1: "):
        ChatTemplate("{% if %}", where="there/chat_template.jinja")


def test_environment_of_transformers():
    assert rendered("{{ {'a': '<é>'} | tojson }}{{ [1, 2] | tojson(indent=1) }}") == '{"a": "<é>"}[\n 1,\n 2\n]'
    assert rendered("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}") == '{"a":2,"b":1}'
    assert rendered("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert rendered("  {% if true %}\na\n  {% endif %}\nb") == "a\nb"
    assert rendered("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ dict(a=3).a }}") == "23"
    assert rendered("{{ tools is none }}{{ documents is none }}{{ enable_thinking }}", enable_thinking=False) == (
        "TrueTrueFalse"
    )
    assert rendered("{{ strftime_now('%Y') }}") == str(datetime.date.today().year)
    assert rendered("a{% generation %}b{% endgeneration %}c") == "abc"
    assert rendered("{{ messages[0].tool_calls is defined }}", [{**CHAT[0], "tool_calls": None}]) == "False"
    spans = ChatTemplate("a{% generation %}bc{% endgeneration %}d{% generation %}e{% endgeneration %}")
    assert spans.renders(CHAT, [(1, False)])[0].spans == ((1, 3), (4, 5))


def test_many_threads_ask_at_once():
    template = ChatTemplate("{{ messages[0].content }}!")
    wrong = []

    def ask(number):
        for i in range(20):
            text = f"{number}-{i}" * 1000
            if template.render([{"role": "user", "content": text}]) != f"{text}!":
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_process_that_was_killed_is_started_again():
    assert rendered("{{ 1 }}") == "1"
    os.kill(children()[0], 9)
    time.sleep(0.2)
    assert rendered("{{ 2 }}") == "2"


def test_the_process_ends_with_ours(tmp_path):
    program = (
        "from msm_jax.data.templates import ChatTemplate\nfrom msm_jax.data import template_process as p\n"
        "ChatTemplate('x')\nprint(p._running.process.pid, flush=True)\n"
        "import os; os._exit(0)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    pid = int(done.stdout)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_another_directory_on_the_path_is_not_imported(tmp_path, monkeypatch):
    """The folder of the script has modules whose names other packages may have."""
    (tmp_path / "jinja2.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(template_process, "_running", None)
    assert rendered("{{ 3 }}") == "3"
