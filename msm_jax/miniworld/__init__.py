"""The built-in small world: corpora, specs and test pairs that make the effect measurable on two cores."""
