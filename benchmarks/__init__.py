"""Speed beside transformers on torch, each side in its own environment and process."""
