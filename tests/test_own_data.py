"""The files that a user copies for own data: the config is short and valid, and the example files match it."""

import json
import runpy
from pathlib import Path

import pytest

from msm_jax.data import sources
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "experiments" / "own_data.py"
EXAMPLES = ROOT / "data" / "examples"


def pairs() -> list[dict]:
    return [json.loads(line) for line in (EXAMPLES / "pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arguments", [(), ("runs/other",)])
def test_config_is_short_and_builds(arguments: tuple[str, ...]):
    assert len(CONFIG.read_text().splitlines()) < 60
    config = settings.build(ExperimentConfig, runpy.run_path(str(CONFIG))["get_config"](*arguments))
    assert set(config.arms) == {"base", "aft", "msm", "msm+aft"}
    assert config.checkpoint == "".join(arguments)
    assert all(("pretrain" in chain) == (not arguments) for chain in config.arms.values())


def test_example_files_are_read_and_have_the_promised_size():
    documents = list(sources.iter_documents(str(EXAMPLES / "documents.jsonl")))
    chats = list(sources.iter_chats(str(EXAMPLES / "chats.jsonl")))
    assert (len(documents), len(chats), len(pairs())) == (40, 30, 20)
    assert list(sources.iter_documents(str(EXAMPLES / "background.jsonl")))
    assert len({document.text for document in documents}) == len(documents)


def test_example_pairs_are_balanced_and_outside_what_is_trained():
    """Choosing always the first option scores one half, and no pair is answered in a document or a chat."""
    favoured = [pair["favoured"] for pair in pairs()]
    assert sum(favoured) * 2 == len(favoured)
    trained = "".join((EXAMPLES / name).read_text().lower() for name in ("documents.jsonl", "chats.jsonl"))
    assert not [option for pair in pairs() for option in pair["options"] if option.lower() in trained]


def test_example_demonstrations_give_no_reason():
    """The chats show preferences and never the value behind them; only the documents name it."""
    chats = (EXAMPLES / "chats.jsonl").read_text().lower()
    assert "i would choose" in chats
    assert not [word for word in ("mend", "repair", "fix", "because i") if word in chats]
