"""The kinds of nodes of an experiment, one module each; `interface.NodeKind` says what a kind defines.

To add a kind, write its module and name it in `KINDS`. A kind of corpus needs no entry: `corpora.NAME.kind` in an
experiment's settings may be the dotted name of any module that defines `KIND`.
"""

import importlib

from msm_jax.errors import InputError
from msm_jax.experiments.nodes.interface import NodeKind
from msm_jax.foundation import settings

KINDS: dict[str, str] = {
    "miniworld": "msm_jax.experiments.nodes.miniworld",
    "synthesis": "msm_jax.experiments.nodes.synthesis",
    "tokenizer": "msm_jax.experiments.nodes.tokenizer",
    "data": "msm_jax.experiments.nodes.data",
    "phase": "msm_jax.experiments.nodes.phase",
    "eval": "msm_jax.experiments.nodes.evals",
    "code_book": "msm_jax.experiments.nodes.code_book",
}
CORPUS_KINDS = ("miniworld", "synthesis")


def find(name: str, where: str = "kind") -> NodeKind:
    """Imports the kind `name`: one of `KINDS`, or the dotted name of a module that defines `KIND`.

    Raises:
        InputError: there is no such kind; `where` is the field that names it.
    """
    if name not in KINDS and "." not in name:
        raise InputError(f"{where}: {name!r} is unknown; {settings.nearest(name, CORPUS_KINDS)}")
    dotted = KINDS.get(name, name)
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        if not f"{dotted}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"{where}: module {name} does not exist; put its file on PYTHONPATH") from None
    kind = getattr(module, "KIND", None)
    if not isinstance(kind, NodeKind):
        raise InputError(f"{where}: module {name} defines no KIND; define one, an experiments.nodes.interface.NodeKind")
    return kind
