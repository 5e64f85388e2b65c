"""Quality gates of documents and demonstrations: rows go in, a verdict for each row and a report come out.

`check.check` runs all gates in one pass over the rows. Each gate has a reason code (`gates.GATES` lists them), which is
what a verdict holds. Whoever uses a corpus of other origin runs the same gates by `python -m msm_jax.quality`.
"""
