"""Trains a SentencePiece tokenizer on documents and chats, for phases from scratch.

python -m msm_jax.train_tokenizer --documents=a.jsonl,b.jsonl --chats=c.jsonl --vocab_size=1024 --workdir=DIR
"""

from absl import flags

from msm_jax import cli
from msm_jax.data import sources, tokenizers
from msm_jax.errors import InputError
from msm_jax.foundation import storage

_WORKDIR = cli.workdir_flag()
_DOCUMENTS = flags.DEFINE_string("documents", "", "Files of documents: a path, a glob, or a comma-separated list.")
_CHATS = flags.DEFINE_string("chats", "", "Files of chats: a path, a glob, or a comma-separated list.")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 8192, "The largest number of ids; 264 of them are specials and bytes.")


def main() -> None:
    """Writes WORKDIR/tokenizer.model and prints its size and its tokens per word.

    Raises:
        InputError: no text is given, a file cannot be used, or the vocabulary is too small.
    """
    workdir = cli.require(_WORKDIR)
    if storage.is_url(workdir):
        raise InputError(f"--workdir={workdir}: phases read a tokenizer from a directory of this machine; give one")
    if not _DOCUMENTS.value and not _CHATS.value:
        raise InputError("--documents and --chats are empty; give files to train on")
    texts: list[str] = []
    if _DOCUMENTS.value:
        texts += [document.text for document in sources.iter_documents(_DOCUMENTS.value)]
    if _CHATS.value:
        chats = sources.iter_chats(_CHATS.value)
        texts += [message["content"] for chat in chats for message in chat.messages]
    tokenizer = tokenizers.train_sentencepiece(texts, workdir, _VOCAB_SIZE.value)
    rate = tokenizers.tokens_per_word(tokenizer, texts)
    print(f"{workdir}: {tokenizer.vocab_size} ids from {len(texts)} texts, {rate:.2f} tokens per word")


if __name__ == "__main__":
    cli.run(main)
