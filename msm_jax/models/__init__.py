"""The decoder-only transformer in the Llama/Qwen form, its attention and its named sizes."""
