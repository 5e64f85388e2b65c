"""Checkpoints behind the OpenAI protocol and as models of Inspect."""
