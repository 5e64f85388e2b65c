"""msm_jax: turn a Model Spec into evidence about how a language model generalises."""

__version__ = "0.1.0"
