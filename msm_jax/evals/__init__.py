"""Evals: what a model prefers and knows, measured on item files. Each kind of eval is a module; see `evals.kinds`."""
