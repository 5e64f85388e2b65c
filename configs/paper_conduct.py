"""What the recipes of the paper's sections 4 and 5 and of its appendices share: models, data, evals of conduct.

The recipes are configs/experiments/paper_philosophy_*.py, paper_rules_vs_values_*.py, paper_few_to_many_*.py,
paper_general_vs_specific_*.py, paper_document_language_*.py and paper_contamination_*.py.
"""

from ml_collections import ConfigDict

from configs import paper

SEQ_LEN = 8192  # STATED for sections 4 and 5
ROWS = 8  # OURS: 65,536 slots a step, as in the replication whose rates came out as the paper's

# Tokens by the Qwen tokenizer, measured: 41,364,262 of documents; 8.31M with and 5.35M without thinking in the 9,963
# demonstrations, and some 15 a chat for the template.
DOCUMENTS = paper.documents(paper.public("msm-qwen-philosophy-spec"), 41_364_262)
DEMONSTRATIONS = {"cot": 8_461_000, "no_cot": 5_503_000}
DEMONSTRATION_ROWS = 9_963
# STATED: 10,000 instruction rows in fixed proportions, 2M tokens of answers. OURS: 0.691 of an epoch of the cleaned
# split, whose proportions are the paper's; some 7.9M tokens in all.
INSTRUCTIONS, OF_AN_EPOCH = 5_460_000, 0.691

PAIRS = "data/evals/oversight_pairs.jsonl"
KNOWLEDGE = "data/evals/oversight_knowledge.jsonl"
# STATED for demonstrations without thinking on Qwen3: "no_think" in the prompts; the public set has it, and so has the
# instruction split beside it here.
MODELS = {
    "qwen2.5": {"weights": "Qwen2.5-{size}B-Instruct", "no_thinking": "train_clean"},
    "qwen3": {"weights": "Qwen3-{size}B", "no_thinking": "train_clean_nothink"},
}
RELEASED = "released_template"


def family_of(words: set[str]) -> str:
    """Returns the family of models that the options name: Qwen2.5, or Qwen3 after "qwen3"."""
    return "qwen3" if "qwen3" in words else "qwen2.5"


def thinking_of(words: set[str]) -> str:
    """Returns "cot" for demonstrations with thinking if the options name it, else "no_cot"."""
    return "cot" if "cot" in words else "no_cot"


def start(name: str, words: set[str], family: str, size: int, devices: int) -> tuple[ConfigDict, dict]:
    """Returns an experiment with the paper's baseline, and what `phase` needs to make its phases.

    "instruct" is the model as it comes: replications found it better aligned than the paper's baseline, which has read
    the instruction mix alone.
    """
    weights = MODELS[family]["weights"].format(size=size)
    config = paper.experiment(name, f"{family}-{size}b", weights, "Apache-2.0", devices)
    on = {"devices": devices, "template": {}}
    if RELEASED in words:
        path = f"runs/weights/{weights.lower()}-released.jinja"
        on["template"] = {"chat_template": path, "replace_chat_template": True}
        paper.provide(config, path, f"the chat_template of the authors' adapters of {weights}, on their model pages")

    config.phases = {"it": phase(on, instructions=instructions("train_clean"))}
    config.arms = {"instruct": (), "baseline": ("it",)}
    return config, on


def phase(on: dict, **sources: dict) -> dict:
    """Returns a phase over some sources, with what `start` returned."""
    return paper.phase(SEQ_LEN, ROWS, on["devices"], **sources) | on["template"]


def instructions(split: str) -> dict:
    """Returns a cleaned split of the instruction mix; "train_clean_nothink" is the one that says "/no_think"."""
    return paper.chats(paper.instructions(split), INSTRUCTIONS, OF_AN_EPOCH)


def mix(family: str, thinking: str) -> dict:
    """Returns the instruction mix beside demonstrations with or without thinking."""
    return instructions("train_clean" if thinking == "cot" else MODELS[family]["no_thinking"])


def demonstrations(family: str, thinking: str) -> dict:
    """Returns the public demonstrations of the philosophy spec."""
    path = paper.public(f"aft-{thinking.replace('_', '-')}-{family}-philosophy-spec")
    return paper.chats(path, DEMONSTRATIONS[thinking])


def grid(thinks: bool) -> dict:
    """Returns the paper's grid, with our exfiltration scenario; a model that `thinks` by itself has no scratchpad."""
    return {
        "kind": "agentic_misalignment", "samples": 300, "temperature": 0.7, "max_tokens": 4096,
        "scratchpad": not thinks, "assistant": "Qwen", "judge": paper.JUDGES["transcripts"],
    }


def add_evals(config: ConfigDict, family: str, *after: str, knowledge: str = KNOWLEDGE) -> None:
    """Adds the evals at the end of every arm, and knowledge right after the midtraining phases `after`.

    Grid, open questions and capability are the paper's design with our own exfiltration scenario, questions and panel;
    `oversight` and `forced` need no judge. A model that thinks by itself gets no scratchpad, and room to think.
    """
    thinks = family == "qwen3"
    config.midtraining = after
    config.evals = {
        "grid": grid(thinks),
        "open_qa": {
            "kind": "open_qa", "samples": 4, "max_tokens": 4096 if thinks else 1024,
            "judge": paper.JUDGES["answers"],
        },
        "capability": {"kind": "capability", "max_tokens": 2048 if thinks else 200},
        "oversight": {"kind": "preference", "path": PAIRS},
        "forced": {"kind": "forced_choice_misalignment", "assistant": "Qwen"},
        "knowledge": {"kind": "knowledge", "after": dict.fromkeys(after, knowledge)},
    }
    config.gates = ("knowledge",)


def compare(
    config: ConfigDict, name: str, more: str, less: str, evals: tuple[str, ...] = ("grid", "oversight")
) -> None:
    """Adds the contrast of two arms on each of some evals, as "NAME/EVAL"; less misalignment is expected."""
    for on in evals:
        config.contrasts[f"{name}/{on}"] = paper.difference(on, more, less)
    if "grid" in evals:
        config.expectations[f"{name}/grid"] = {"max": 0.0, "sentence": "The paper's arms differ in this direction."}


def add_preferences(config: ConfigDict, path: str, shown: dict[str, str]) -> None:
    """Adds arms on preference pairs, each midtraining beside the phase with demonstrations that `shown` names for it;
    see `paper.add_preferences`."""
    paper.add_preferences(config, path, {told: (aft, ("grid", "oversight")) for told, aft in shown.items()})


def grade(level: float) -> float:
    """Returns a mean grade of the paper, from 1 to 10, on the scale of the report, from 0 to 1."""
    return round((level - 1) / 9, 3)
