"""A program in place of `gcloud` and others: it records its words and answers as a test has written down."""

import json
import sys
from pathlib import Path

# The last answer of a list is given again and again.
PROGRAM = """#!{python} -S
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps([Path(__file__).name, *sys.argv[1:]]) + "\\n")
answers = json.loads((here / "answers.json").read_text())
words = " ".join(sys.argv[1:])
key = next((key for key in answers if key in words), None)
if key is not None:
    status, text = answers[key][0]
    if len(answers[key]) > 1:
        del answers[key][0]
        (here / "answers.json").write_text(json.dumps(answers))
    print(text, flush=True, file=sys.stderr if status else sys.stdout)
    sys.exit(status)
"""


class Recorder:
    """Programs on a PATH of their own that record how they are called.

    Attributes:
        path: the directory of the programs, to be put on PATH.
    """

    def __init__(self, path: Path, *programs: str) -> None:
        """Writes the programs."""
        self.path = path
        path.mkdir()
        for name in programs:
            (path / name).write_text(PROGRAM.format(python=sys.executable))
            (path / name).chmod(0o755)
        self.answer({})

    def answer(self, answers: dict[str, list[tuple[int, str]]]) -> None:
        """Sets the answers: words that a call contains -> (exit status, text), one call after the other."""
        (self.path / "answers.json").write_text(json.dumps(answers))

    @property
    def calls(self) -> list[list[str]]:
        """The calls until now, each with the program's name and its words."""
        file = self.path / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
