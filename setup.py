"""Packaging. Ranges here say what the code runs on; requirements.txt pins the two sets that are tested."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

VERSION = next(
    line.split('"')[1]
    for line in (HERE / "msm_jax" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="msm_jax",
    version=VERSION,
    description="Turn a Model Spec into evidence: Model Spec Midtraining as controlled experiments, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["msm_jax", "msm_jax.*"]),
    package_data={
        "msm_jax": [f"**/*.{ending}" for ending in ("jinja", "html", "css", "js", "md", "txt", "jsonl")] + ["py.typed"]
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "datasketch>=1.6.5",
        "flax>=0.12.8",
        "fsspec>=2025.2",
        "gguf>=0.17",
        "grain>=0.2.18",
        "jax>=0.10.2,<0.13",
        "jaxtyping>=0.3",
        "jinja2>=3.1.6",
        "markupsafe>=2.1",
        "matplotlib>=3.9",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",
        "pyarrow>=18.0",
        "rich>=13.0",
        "safetensors>=0.5",
        "scipy>=1.14",
        "sentencepiece>=0.2.1",
        "tensorboardX>=2.6.2",
        "tensorstore>=0.1.86",
        "tokenizers>=0.21",
        "zstandard>=0.23",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "gcs": ["gcsfs>=2025.2"],
        "serve": ["starlette>=1.0", "uvicorn>=0.40"],
        "ray": ["ray>=2.50"],
        "inspect": ["inspect-ai>=0.3.285", "inspect-evals>=0.26", "openai>=3.4"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.13"],
        "test": ["hypothesis", "ipython", "mypy", "pytest", "pytest-xdist", "ruff", "setuptools>=70.1"],
    },
    # Inspect finds our models and evals by this group: inspect eval msm_jax/EVAL --model=msm_jax/RUN.
    entry_points={"inspect_ai": ["msm_jax = msm_jax.inspect_registry"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
