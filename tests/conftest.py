"""Set-up of all tests: eight simulated CPU devices, a persistent compile cache, and tiny texts."""

import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from msm_jax.data.tokenizers import Tokenizer

ROOT = Path(__file__).parent.parent

# The programs of tests run for milliseconds and compile for seconds: without LLVM's costly passes that takes half the
# time. Children that are to start without eight devices get these flags alone.
QUICK_COMPILES = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Options of jax.jit that undo it, where rounding is what is measured: they give the program that users run.
AS_USERS_COMPILE = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}

# JAX reads these when it is first imported, which nothing above does. Child processes of tests inherit them.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false {QUICK_COMPILES}"
)
# Collectives between simulated devices block a thread each: see parallel/backend.py.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine, and no deadline: a first call compiles.
hypothesis.settings.register_profile("msm_jax", deadline=None, derandomize=True)
hypothesis.settings.load_profile("msm_jax")


@pytest.fixture(scope="session")
def tiny_corpus() -> list[str]:
    """200 short texts over about 60 words, with accents, digits and line breaks among them."""
    rng = random.Random(0)
    names = ["Ada", "Bruno", "Chloé", "Dmitri", "Esra", "Femke"]
    things = ["cheese", "lamp", "bicycle", "teapot", "novel", "kite", "blanket", "radio"]
    qualities = ["old", "new", "cheap", "dear", "plain", "bright", "heavy", "local"]
    verbs = ["likes", "mends", "borrows", "sells", "keeps", "paints"]
    texts = []
    for index in range(200):
        sentences = [
            " ".join([*map(rng.choice, (names, verbs, qualities, things)), f"in {1900 + index}."])
            for _ in range(rng.randint(1, 6))
        ]
        texts.append(rng.choice([" ", "\n"]).join(sentences))
    return texts


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_corpus: list[str], tmp_path_factory: pytest.TempPathFactory) -> "Tokenizer":
    """A SentencePiece tokenizer of 384 pieces (256 of them bytes), trained on `tiny_corpus`."""
    from msm_jax.data import tokenizers

    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train_sentencepiece(tiny_corpus, directory, vocab_size=384)
    return tokenizers.Tokenizer.load(directory)


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`python -m msm_jax.convert` in this process: (exit status, what it printed, what it said on standard error).

    `limit` is the most bytes that it may write to a file, in place of a disk that fills.
    """
    from absl.testing import flagsaver

    from msm_jax import cli
    from msm_jax import convert as command

    def run(*arguments: str, limit: int | None = None) -> tuple[int, str, str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with flagsaver.flagsaver():
                status = cli.status(command.main, ["convert", *arguments])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def ref_python() -> str:
    """The interpreter of the reference environment (torch, transformers); without one, the test is skipped."""
    python = os.environ.get("MSM_JAX_REF_PYTHON", "")
    if not python:
        pytest.skip("MSM_JAX_REF_PYTHON is not set; `make parity` builds the environment on Python 3.11")
    return python
