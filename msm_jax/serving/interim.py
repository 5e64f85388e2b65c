"""The engine, under the name by which this room imports it."""

from msm_jax.sampling.engine import Engine, Request

__all__ = ["Engine", "Request"]
