"""The paper's section 4, for both of its models: does midtraining on a spec make the same demonstrations go further?

The recipes are `configs/experiments/paper_philosophy_*.py`. The paper measures by agentic-misalignment transcripts and
open questions that a strong model judges; neither is built in yet, so the evals here are OURS and need no judge:
forced choices about oversight, shutdown and power, and what the model says of itself right after midtraining. Compare
arms by them, not with the paper's figures; the checkpoints are what the paper's own evaluations take.
"""

from ml_collections import ConfigDict

from configs import paper

SEQ_LEN = 8192  # STATED for sections 4 and 5
ROWS = 8  # OURS: 65,536 slots a step, as in the replication whose rates came out as the paper's

# Tokens by the Qwen tokenizer, measured: 41,364,262 of documents; 8.31M with and 5.35M without thinking in the 9,963
# demonstrations, and some 15 a chat for the template.
DOCUMENTS = paper.documents(paper.public("msm-qwen-philosophy-spec"), 41_364_262)
DEMONSTRATIONS = {"cot": 8_461_000, "no_cot": 5_503_000}
# STATED: 10,000 instruction rows in fixed proportions, 2M tokens of answers. OURS: 0.691 of an epoch of the cleaned
# split, whose proportions are the paper's; some 7.9M tokens in all.
INSTRUCTIONS = 5_460_000

PAIRS = "data/evals/oversight_pairs.jsonl"
KNOWLEDGE = "data/evals/oversight_knowledge.jsonl"


def instructions(split: str) -> dict:
    """Returns a cleaned split of the instruction mix; "train_clean_nothink" is the one that says "/no_think"."""
    return paper.chats(paper.instructions(split), INSTRUCTIONS)


def add_evals(config: ConfigDict, *after: str) -> None:
    """Adds forced choices at the end of every arm, and knowledge right after the midtraining phases `after`."""
    config.midtraining = after
    config.evals.oversight = {"kind": "preference", "path": PAIRS}
    config.evals.knowledge = {"kind": "knowledge", "after": dict.fromkeys(after, KNOWLEDGE)}
    config.gates = ("knowledge",)


def get_config(argument: str, family: str, no_thinking: str, **experiment: str) -> ConfigDict:
    """Returns the recipe of one model; `no_thinking` is the instruction split for demonstrations without thinking."""
    words, devices = paper.options(argument, devices=4)
    paper.only(words)
    config = paper.experiment(**experiment, devices=devices)
    config.question = "Do documents about the philosophy spec make the same demonstrations go further?"

    def phase(**sources: dict) -> dict:
        return paper.phase(SEQ_LEN, ROWS, devices, **sources)

    config.phases = {"msm": phase(documents=DOCUMENTS), "it": phase(instructions=instructions("train_clean"))}
    # "instruct" is the model as it comes: replications found it better aligned than the paper's baseline, which has
    # read the instruction mix alone.
    config.arms = {"instruct": (), "baseline": ("it",), "msm": ("msm",)}
    for thinking, split in (("no_cot", no_thinking), ("cot", "train_clean")):
        path = paper.public(f"aft-{thinking.replace('_', '-')}-{family}-philosophy-spec")
        demonstrations = paper.chats(path, DEMONSTRATIONS[thinking])
        config.phases[f"aft_{thinking}"] = phase(demonstrations=demonstrations, instructions=instructions(split))
        config.arms[f"aft_{thinking}"] = (f"aft_{thinking}",)
        config.arms[f"msm+aft_{thinking}"] = ("msm", f"aft_{thinking}")
        both = (f"msm+aft_{thinking}", f"aft_{thinking}")
        config.contrasts[f"midtraining/{thinking}"] = paper.difference("oversight", *both)
    config.contrasts["midtraining/alone"] = paper.difference("oversight", "msm", "instruct")
    add_evals(config, "msm")
    return config
