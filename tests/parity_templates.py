"""Run by the reference interpreter: chats as transformers renders and encodes them.

    python parity_templates.py DIRECTORY OUT.json

DIRECTORY holds one folder per template: tokenizer.json, tokenizer_config.json, chat_template.jinja.
"""

import json
import re
import sys
from pathlib import Path

from template_table import CONVERSATIONS
from transformers import AutoTokenizer


def rendering(tokenizer, messages, tools, variables, prompt):
    """Text, ids and character offsets of a chat; {"error"} where transformers refuses it."""
    how = {"tools": tools or None, "add_generation_prompt": prompt, **variables}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **how)
    except Exception as error:  # whatever a template raises
        return {"error": f"{type(error).__name__}: {error}"}
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded["input_ids"] == ids
    out = {"text": text, "ids": ids, "offsets": encoded["offset_mapping"]}
    if re.search(r"{%-?\s*generation", tokenizer.chat_template) and not prompt:
        marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **how)
        out["marked"] = marked["assistant_masks"]
    return out


def main(directory, out):
    found = {}
    for folder in sorted(path for path in Path(directory).iterdir() if not path.name.startswith(".")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found[folder.name] = {"documents": {}, "chats": {}}
        for name, (messages, tools, variables) in CONVERSATIONS.items():
            text = "\n".join(message["content"] for message in messages)
            found[folder.name]["documents"][name] = [text, tokenizer(text)["input_ids"]]
            spoken = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            found[folder.name]["chats"][name] = {
                "whole": rendering(tokenizer, messages, tools, variables, False),
                "prompts": {i: rendering(tokenizer, messages[:i], tools, variables, True) for i in spoken},
                "turns": {i: rendering(tokenizer, messages[: i + 1], tools, variables, False) for i in spoken},
            }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
