"""What a checkpoint prefers and knows: preference pairs by log-probability or by its answer, and knowledge items."""
