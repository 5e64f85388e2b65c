"""Settings of one phase: what it starts from, what it reads, how it is optimised and how often it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msm_jax.data.config import DataConfig
from msm_jax.errors import InputError
from msm_jax.models.config import EXECUTION
from msm_jax.models.lora import LoraConfig
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.training.objective import NextToken, Objective
from msm_jax.training.preference import Preference


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warmup over `warmup_steps`, then a constant rate or cosine to `final_fraction` of the peak."""

    learning_rate: float
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that no optimizer accepts."""
        _at_least(self, 0, "learning_rate", "warmup_steps", "final_fraction", "weight_decay")
        for name in ("eps", "clip_norm"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} = {getattr(self, name)}; it must be above 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}; it must lie in [0, 1)")


@dataclass(frozen=True)
class InitConfig:
    """Where a phase starts: from "scratch", or from the "params" alone or the full "state" of a checkpoint.

    `checkpoint` is a checkpoint directory (RUN/checkpoints/STEP) or a run directory (its newest checkpoint). If it
    holds an adapter, the path of its base is read from it; `base` names the base if that has moved.
    """

    mode: Literal["scratch", "params", "state"] = "scratch"
    checkpoint: str = ""
    base: str = ""

    def __post_init__(self) -> None:
        """Refuses a mode and a checkpoint that contradict each other."""
        if self.mode == "scratch" and self.checkpoint:
            raise InputError(
                f'mode is "scratch" but checkpoint = {self.checkpoint!r}; set mode to "params" or "state"'
            )
        if self.mode != "scratch" and not self.checkpoint:
            raise InputError(f'mode = "{self.mode}" needs a checkpoint; set init.checkpoint')
        if self.mode == "scratch" and self.base:
            raise InputError(f'mode is "scratch" but base = {self.base!r}; leave it empty')


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of training.

    A phase from scratch names a model `preset` (changed by `model_overrides`), a `tokenizer` directory and,
    for chats, a `chat_template` file (empty: the tokenizer directory's, else the built-in one). A phase from a
    checkpoint takes all of these from the checkpoint, so they stay empty, except overrides of how the model is run
    (`remat` or `attention`, say). It may set `chat_template` if the checkpoint has none, or with
    `replace_chat_template` to train under another one.

    Batches have `batch_rows` rows, cut into `micro_batches` for accumulation. `z_loss` is the weight of log² Z in the
    gradient (see `training.loss`). `threads` fixes the CPU threads of the process (0: all cores); results are
    bit-identical only for equal thread counts. Cadences are in steps; 0 turns held-out loss or intermediate checkpoints
    off. A phase always saves a checkpoint at its end, at each of `keep_steps` and every `keep_every` steps, which are
    never deleted. Others are saved every `checkpoint_every` steps, and when `checkpoint_minutes` have passed since the
    last one, at the next step that is logged; of these the newest `keep_checkpoints` are kept.

    `trace_steps` are the first and the last step of a trace for XProf, and empty for none. If no step ends within
    `stall_seconds`, and within 20 times the usual time of a step, the stacks of all threads are written
    (`training.watch`).

    With `lora` an adapter is trained, while the base stays frozen in `base_dtype`. `adapter` decides what happens to an
    adapter in the checkpoint: "continue" trains it further (and a new one where there is none), "stack" freezes it
    under a new one, and "merge" adds it to the frozen base, or without `lora` to the weights, all of which are trained.

    With `dpo` the phase prefers the chosen answers of pairs to the rejected ones; otherwise it learns the next token of
    documents and chats.
    """

    name: str
    seed: int
    steps: int
    batch_rows: int
    data: DataConfig
    optimizer: OptimizerConfig
    init: InitConfig = field(default_factory=InitConfig)
    preset: str = ""
    model_overrides: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    tokenizer: str = ""
    chat_template: str = ""
    replace_chat_template: bool = False
    lora: LoraConfig | None = None
    adapter: Literal["continue", "merge", "stack"] = "continue"
    base_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    dpo: Preference | None = None
    mesh: MeshConfig = field(default_factory=MeshConfig)
    micro_batches: int = 1
    z_loss: float = 0.0
    threads: int = 0
    log_every: int = 10
    eval_every: int = 0
    eval_batches: int = 4
    checkpoint_every: int = 0
    checkpoint_minutes: float = 0.0
    keep_checkpoints: int = 2
    keep_steps: tuple[int, ...] = ()
    keep_every: int = 0
    trace_steps: tuple[int, ...] = ()
    stall_seconds: float = 300.0

    @property
    def objective(self) -> Objective:
        """What the phase optimises."""
        return NextToken(self.z_loss) if self.dpo is None else self.dpo

    def __post_init__(self) -> None:
        """Refuses counts that are out of range and fields that contradict each other."""
        _at_least(
            self, 1, "steps", "batch_rows", "micro_batches", "log_every", "eval_batches", "keep_checkpoints"
        )
        _at_least(self, 0, "z_loss", "seed", "threads", "eval_every")
        _at_least(self, 0, "checkpoint_every", "checkpoint_minutes", "keep_every")
        for step in self.keep_steps:
            if not 1 <= step <= self.steps:
                raise InputError(f"keep_steps: the phase has no step {step}; its steps are 1 to {self.steps}")
        if self.trace_steps and not (len(self.trace_steps) == 2 and 1 <= self.trace_steps[0] <= self.trace_steps[1]):
            raise InputError(f"trace_steps = {self.trace_steps}; it must be (first, last), with 1 <= first <= last")
        if self.stall_seconds <= 0:
            raise InputError(f"stall_seconds = {self.stall_seconds}; it must be above 0")
        ways = self.mesh.data * self.mesh.fsdp * self.micro_batches
        if ways > 0 and self.batch_rows % ways:
            near = self.batch_rows // ways * ways
            raise InputError(
                f"batch_rows = {self.batch_rows} is not a multiple of {ways}, the product of mesh.data, mesh.fsdp and "
                f"micro_batches; the nearest that is: {f'{near} or ' if near else ''}{near + ways}"
            )
        if self.replace_chat_template and (self.init.mode == "scratch" or not self.chat_template):
            raise InputError("replace_chat_template needs init.checkpoint and chat_template; set them or leave it out")
        if self.init.mode == "scratch":
            for name in ("preset", "tokenizer"):
                if not getattr(self, name):
                    raise InputError(f"{name} is empty; a phase from scratch needs it")
            if self.lora is not None:
                raise InputError("lora is set, but a phase from scratch has no base to freeze; set init or lora = None")
        else:
            for name in ("preset", "tokenizer"):
                if getattr(self, name):
                    raise InputError(
                        f"{name} is set, but this phase starts from a checkpoint and takes it from there; "
                        "leave it empty"
                    )
            for name in self.model_overrides:
                if name not in EXECUTION:
                    raise InputError(
                        f"model_overrides.{name} is set, but this phase starts from a checkpoint and takes it from "
                        f"there; only how the model is run can change: {', '.join(EXECUTION)}"
                    )
        for name, source in self.data.sources.items():
            if source.kind not in self.objective.kinds:
                raise InputError(
                    f'data.sources.{name}.kind = "{source.kind}", but the phase reads '
                    f"{' and '.join(self.objective.kinds)}: {'set dpo' if self.dpo is None else 'dpo is set'}; correct "
                    "one of them"
                )
        if self.dpo is not None and self.z_loss:
            raise InputError(f"z_loss = {self.z_loss}, but dpo has no such term; leave it at 0")
        if self.dpo is not None and self.dpo.reference == "base" and self.lora is None:
            raise InputError('dpo.reference = "base" needs lora, since no weights are frozen; set it to "start"')
        if self.lora is None and self.adapter == "stack":
            raise InputError('adapter = "stack" needs lora, the settings of the adapter on top; set it')
        if self.init.mode == "state" and self.adapter != "continue":
            raise InputError(
                f'init.mode = "state" continues an adapter as it is, which contradicts adapter = "{self.adapter}"; '
                'set init.mode = "params" or adapter = "continue"'
            )


def _at_least(config: object, minimum: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < minimum:
            raise InputError(f"{name} = {getattr(config, name)}; it must be at least {minimum}")
