"""Launchers: they start commands of msm_jax on machines elsewhere. Nothing imports this package."""
