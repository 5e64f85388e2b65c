"""Converts weights, tokenizer and chat template between this package's checkpoints and other formats.

The other formats are Hugging Face directories, GGUF files (read only) and PEFT directories with a LoRA adapter.

    python -m msm_jax.convert --from_hf=DIR --to_checkpoint=RUN
    python -m msm_jax.convert --from_gguf=FILE --to_checkpoint=RUN
    python -m msm_jax.convert --from_checkpoint=RUN --to_hf=DIR --dtype=bfloat16
    python -m msm_jax.convert --from_peft=DIR --base=RUN --to_checkpoint=RUN
    python -m msm_jax.convert --from_checkpoint=RUN --to_peft=DIR
    python -m msm_jax.convert --from_checkpoint=RUN --merge --to_checkpoint=RUN

The target must not exist, or be an empty directory. It is written whole or not at all. Checkpoints and targets may be
at URLs, such as gs://BUCKET/RUN.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from absl import flags

from msm_jax import cli
from msm_jax.checkpoints import assets, exchange, exports, gguf, huggingface, imports, integrity, peft, remote
from msm_jax.checkpoints.huggingface import Source
from msm_jax.errors import InputError
from msm_jax.foundation import mirror
from msm_jax.models import transformer

# The file of a new run without which its checkpoint does not count.
_COMMITTED = f"checkpoints/0/{integrity.NAME}"

_FROM_HF = flags.DEFINE_string("from_hf", "", "A Hugging Face directory: Llama, Qwen2 or Qwen3 in safetensors.")
_FROM_GGUF = flags.DEFINE_string("from_gguf", "", "A GGUF file of the Llama family.")
_FROM_CHECKPOINT = flags.DEFINE_string("from_checkpoint", "", "A checkpoint or run directory of this package.")
_TO_CHECKPOINT = flags.DEFINE_string("to_checkpoint", "", "The run directory to make, with one checkpoint.")
_TO_HF = flags.DEFINE_string("to_hf", "", "The Hugging Face directory to make.")
_FROM_PEFT = flags.DEFINE_string("from_peft", "", "A PEFT directory with a LoRA adapter.")
_BASE = flags.DEFINE_string("base", "", "The checkpoint or run directory of the base model of --from_peft's adapter.")
_TO_PEFT = flags.DEFINE_string("to_peft", "", "The PEFT directory to make, with the checkpoint's adapter.")
_MERGE = flags.DEFINE_bool("merge", False, "Add --from_checkpoint's adapter to its base, and write all weights.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "float16"], "The dtype of the weights written; by default the source's."
)


def main() -> None:
    """Converts as the flags say.

    Raises:
        InputError: the flags do not name one conversion, or the source or target is refused.
        WorkError: the target cannot be written.
    """
    flagged = (_FROM_HF, _FROM_GGUF, _FROM_PEFT, _FROM_CHECKPOINT, _BASE, _MERGE, _TO_CHECKPOINT, _TO_HF, _TO_PEFT)
    given = {flag.name: str(flag.value) for flag in flagged if flag.value}
    dtype = np.dtype(getattr(jnp, _DTYPE.value)) if _DTYPE.value else None
    match given:
        case {"from_hf": source, "to_checkpoint": run, **rest} if not rest:
            _import(huggingface.Directory(source, dtype), run, dtype)
        case {"from_gguf": source, "to_checkpoint": run, **rest} if not rest:
            _import(gguf.File(source, dtype), run, dtype)
        case {"from_checkpoint": source, "to_hf": directory, **rest} if not rest:
            with remote.made(directory, "config.json") as target:
                exports.write(source, target, dtype)
            print(f"wrote {directory}")
        case {"from_peft": source, "base": base, "to_checkpoint": run, **rest} if not rest:
            with remote.made(run, _COMMITTED) as target:
                written = exchange.import_peft(source, base, target)
            print(f"wrote {mirror.named(written)}")
        case {"from_checkpoint": source, "to_peft": directory, **rest} if not rest:
            with remote.made(directory, peft.CONFIG_FILE) as target:
                exchange.export_peft(source, target)
            print(f"wrote {directory}")
        case {"from_checkpoint": source, "merge": _, "to_checkpoint": run, **rest} if not rest:
            with remote.made(run, _COMMITTED) as target:
                written = exchange.merge(source, target, dtype)
            print(f"wrote {mirror.named(written)}")
        case _:
            raise InputError(
                "give --from_hf=DIR, --from_gguf=FILE, or --from_peft=DIR and --base=RUN, with --to_checkpoint=RUN; or "
                "--from_checkpoint=RUN with --to_hf=DIR, --to_peft=DIR, or --merge and --to_checkpoint=RUN; given: "
                f"{', '.join(f'--{name}' for name in sorted(given)) or 'none of them'}"
            )


def _import(source: Source, run: str, dtype: np.dtype | None) -> None:
    with remote.made(run, _COMMITTED) as target:
        checkpoint = imports.write(source, target, dtype)
    count = transformer.count_params(source.model)
    print(f"wrote {mirror.named(checkpoint)}: {count:,} parameters")
    if not any(name in source.assets for name in assets.TOKENIZERS):
        print(f"{source.where} holds no {' or '.join(assets.TOKENIZERS)}: the checkpoint has no tokenizer")
    elif assets.TEMPLATE not in source.assets:
        print(f"{source.where} holds no chat template: the checkpoint has none")


if __name__ == "__main__":
    cli.run(main)
