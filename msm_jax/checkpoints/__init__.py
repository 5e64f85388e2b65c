"""Checkpoints in Orbax, manifests that record their lineage, and other formats: Hugging Face, PEFT and GGUF."""
