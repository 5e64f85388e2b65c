"""Scripts that download models, make plans and set up environments."""
