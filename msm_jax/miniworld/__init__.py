"""The built-in small world: corpora, specs and test pairs that show the effect of midtraining on two CPU cores."""
