"""Sources, tokenizers, chat templates, the tokenised cache, packing, mixtures and the loader."""
