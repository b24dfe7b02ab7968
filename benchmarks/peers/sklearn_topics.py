# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""scikit-learn's LatentDirichletAllocation: batch VB, the same bound by the same sweeps."""

from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.decomposition import LatentDirichletAllocation

from ..problems.catalogue import load
from ..topics import TOPICS, WORDS, Hoffman
from .stepping import Clock

MOST_ITERATIONS = 500


class Started(LatentDirichletAllocation):
    """With the topics that every side starts at; scikit-learn draws its own."""

    def begin(self, topics: np.ndarray) -> "Started":
        """Keep where to start."""
        self.topics = topics
        return self

    def _init_latent_vars(self, n_features: int, dtype: Any = np.float64) -> None:
        super()._init_latent_vars(n_features, dtype)
        self.components_ = self.topics.astype(dtype)
        logs = torch.from_numpy(self.components_)
        mean = logs.digamma() - logs.sum(-1, keepdim=True).digamma()
        self.exp_dirichlet_component_ = mean.exp().numpy()


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Fits of ever more iterations, each from the start, with the bound by Hoffman's judge."""
    torch.set_default_dtype(torch.float64)
    problem = load(given["problem"], given["data"], given["tiny"])
    doc, words, sizes = problem.args
    topics, seen, iterations = problem.start["phi"].concentration.numpy(), [], 1
    counts = scipy.sparse.csr_matrix(
        (np.ones(len(words)), (doc.numpy(), words.numpy())),
        shape=(sizes.documents, sizes.vocabulary),
    )
    judge = Hoffman(words.reshape(sizes.documents, -1), sizes)
    while not seen or (seen[-1]["seconds"] < given["seconds"] and iterations < MOST_ITERATIONS):
        iterations = 2 * iterations
        model = Started(
            sizes.topics,
            doc_topic_prior=TOPICS,
            topic_word_prior=WORDS,
            learning_method="batch",
            max_iter=iterations,
            evaluate_every=-1,
            random_state=given["seed"],
        ).begin(topics)
        clock = Clock()
        with clock:
            model.fit(counts)
        judge.phi = torch.from_numpy(model.components_)
        bound = judge.bound_per_word() * len(words)
        seen.append({"seconds": clock.seconds, "gradients": 0, "own": bound})
    setting = f"up to {iterations} iterations, its limits within one as they are"
    return {"compile": 0.0, "runs": [{"setting": setting, "looks": seen}]}
