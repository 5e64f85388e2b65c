"""Which items of evals are independent of each other, and how far a mean over them may be off because of the items.

An item has labels: its cluster (a domain, a topic) and the options that it compares. Two items that share a label are
not independent, since a model that takes to a topic, or to an option, does so in all items that have it. The variance
of a mean over items is then the sum of the products of the residuals of all pairs of dependent items,

    V = c · Σ_ij A_ij z_i z_j,    z_i = w_i (x_i − mean),    A_ij = 1 if i = j or i and j share a label, else 0,

which is the cluster-robust variance where each item has one label, and that of Aronow, Samii and Assenova (2015,
"Cluster-robust variance estimation for dyadic data", Political Analysis 23) for pairs. `c` removes the bias of
residuals, and the degrees of freedom are those of the quadratic form, both as Bell and McCaffrey (2002, "Bias
reduction in standard errors for linear regression with multi-stage samples", Survey Methodology 28) compute them for
independent items of equal variance. For C clusters of equal size they are C / (C − 1) and C − 1.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Labels = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Dependence:
    """The items of one or more evals, one after the other, with what they share; see the module's docstring.

    Attributes:
      counts: the number of items of each eval.
      labels: the number of labels that two or more items share and at least one item lacks.
      related: A, sparse `[items, items]`; None where all items are independent.
      correction: c.
      df: the degrees of freedom of V; 0 where nothing can be said of its size.
      overlapping: whether an item has several labels. V may then be smaller than if all items were independent, even
        negative, and the latter is taken instead.
    """

    counts: tuple[int, ...]
    labels: int
    related: sparse.csr_array | None
    correction: float
    df: float
    overlapping: bool

    def variance(self, z_RN: Floats) -> Floats:
        """Returns V for rows of `z`, `[rows, items]` to `[rows]`."""
        alone: Floats = np.einsum("rn,rn->r", z_RN, z_RN)
        if self.related is None:
            return self.correction * alone
        together: Floats = self.correction * np.einsum("rn,rn->r", z_RN, (self.related @ z_RN.T).T)
        return np.where(together < alone, alone, together) if self.overlapping else together


@functools.lru_cache(maxsize=256)
def of(labels: tuple[Labels, ...]) -> Dependence:
    """Returns the dependence of the items of one or more evals, given the labels of each item.

    A label that all items share is left out: how much it matters cannot be seen from them. What is found then holds for
    that label alone, such as one domain.
    """
    counts = tuple(len(items) for items in labels)
    every = [item for items in labels for item in items]
    number = len(every)
    holders: dict[str, list[int]] = {}
    for index, item in enumerate(every):
        for label in dict.fromkeys(item):
            holders.setdefault(label, []).append(index)
    shared = [items for items in holders.values() if 1 < len(items) < number]
    weights = np.concatenate([np.full(count, 1 / count) for count in counts])
    if not shared:
        lone = sparse.eye_array(number, format="csr")
        correction, df = _moments(lone, lone, weights, counts)
        return Dependence(counts, 0, None, correction, df, False)
    columns = np.repeat(np.arange(len(shared)), [len(items) for items in shared])
    rows = np.concatenate([np.asarray(items) for items in shared])
    has = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(number, len(shared)))
    per_item = np.asarray(has.sum(axis=1)).ravel()
    # An item that shares nothing is a group of its own.
    gram = (has @ has.T + sparse.diags_array((per_item == 0).astype(np.float64))).tocsr()
    related = gram.copy()
    related.data = np.ones_like(related.data)
    overlapping = bool((gram.data > 1).any()) and not _nested(gram, related)
    correction, df = _moments(related, gram if overlapping else related, weights, counts)
    return Dependence(counts, len(shared), related, correction, df, overlapping)


def _nested(gram: sparse.csr_array, related: sparse.csr_array) -> bool:
    """Tells whether items that are related to a common item are always related, so that they form clusters."""
    return bool((related @ related).nnz == related.nnz)


def _moments(
    related: sparse.csr_array, weighed: sparse.csr_array, weights: Floats, counts: Sequence[int]
) -> tuple[float, float]:
    """Returns c and the degrees of freedom.

    The latter are those of `weighed`, in which pairs with two labels in common count twice. It has no negative
    eigenvalues, which would make the form look less certain than it is once it is bounded from below.
    """
    part = np.repeat(np.arange(len(counts)), counts)
    means = sparse.csr_array(
        (1 / np.sqrt(np.repeat(counts, counts)), (np.arange(len(part)), part)), shape=(len(part), len(counts))
    )

    def scaled(matrix: sparse.csr_array) -> tuple[sparse.csr_array, Floats]:
        form = sparse.diags_array(weights) @ matrix @ sparse.diags_array(weights)
        return form.tocsr(), (form @ means).toarray()

    form, onto = scaled(related)
    expected = form.diagonal().sum() - np.einsum("nk,nk->", means.toarray(), onto)
    if expected <= 1e-12 * form.diagonal().sum():
        return 1.0, 0.0
    correction = form.diagonal().sum() / expected
    form, onto = scaled(weighed)
    trace = form.diagonal().sum() - np.einsum("nk,nk->", means.toarray(), onto)
    square = (form.data**2).sum() - 2 * (onto**2).sum() + ((means.T @ onto) ** 2).sum()
    return float(correction), float(trace**2 / square)
