"""The code book of the eval `reasoning`, made from samples of all arms that will be compared.

    python -m msm_jax.code_book --config=configs/evals/code_book.py:runs/X/samples/aft/0/grid.jsonl,runs/X/samples/msm+aft/0/grid.jsonl --workdir=DIR

Each of the files, with commas between them, counts as one arm and gives equally many transcripts. A glob stands for the
seeds of an arm. Set a judge of yours: --config.judge.model=anthropic/MODEL-DATE --config.judge.version=DATE.
"""  # noqa: E501  # a command is one line

from ml_collections import ConfigDict


def get_config(transcripts: str) -> ConfigDict:
    return ConfigDict(
        {
            "transcripts": tuple(transcripts.split(",")),
            "judge": {"model": "", "version": ""},
            "sample": 200,
            "batch": 100,
            "overlap": 0.75,
            "seed": 0,
        }
    )
