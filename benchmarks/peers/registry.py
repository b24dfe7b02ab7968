# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The peers: what each is, which environment it runs in, and what its answer is judged by."""

from dataclasses import dataclass

from .environments import HERE

MEAN_FIELD, FULL, DEFAULT = "mean-field", "full", "default"
#: Variational message passing: q is a product over sites, and its bound has a closed form.
VMP = "message passing"


@dataclass(frozen=True)
class Peer:
    """A program to compare with.

    :param str title: for the tables.
    :param str environment: the name of the one that it runs in.
    :param tuple packages: whose versions are told.
    :param tuple families: of q that it can have, each of which is run; "" if it has one of its own.
    :param str kind: "general" for VI on any model, "dedicated" for a solver of this one, "other"
        for what is there for scale.
    :param bool searches: whether it has a learning rate, which is searched for.
    """

    name: str
    title: str
    environment: str
    packages: tuple[str, ...]
    families: tuple[str, ...] = ("",)
    kind: str = "general"
    searches: bool = False


_GAUSSIANS, _SKLEARN = (MEAN_FIELD, FULL), ("scikit-learn", "numpy")
_ALL = (
    Peer("blr", "BLR", HERE, ("pyro-blr", "pyro-ppl", "torch"), (DEFAULT, *_GAUSSIANS)),
    Peer("pyro_svi", "Pyro SVI", HERE, ("pyro-ppl", "torch"), _GAUSSIANS, searches=True),
    Peer("numpyro_svi", "NumPyro SVI", HERE, ("numpyro", "jax"), _GAUSSIANS, searches=True),
    Peer("blackjax_vi", "BlackJAX VI", "jax", ("blackjax", "jax"), _GAUSSIANS, searches=True),
    Peer("pymc_advi", "PyMC ADVI", "pymc", ("pymc", "pytensor"), _GAUSSIANS, searches=True),
    Peer("blackjax_pathfinder", "BlackJAX Pathfinder", "jax", ("blackjax", "jax")),
    Peer("pymc_pathfinder", "PyMC Pathfinder", "pymc", ("pymc", "pymc-extras"), kind="other"),
    Peer("numpyro_nuts", "NumPyro NUTS", HERE, ("numpyro", "jax"), kind="other"),
    Peer("bayespy_vmp", "BayesPy", HERE, ("bayespy", "numpy"), (VMP,)),
    Peer("sklearn_topics", "scikit-learn LDA", HERE, _SKLEARN, (VMP,), kind="dedicated"),
    Peer("sklearn_ridge", "scikit-learn BayesianRidge", HERE, _SKLEARN, kind="dedicated"),
    Peer("sklearn_mixture", "scikit-learn GaussianMixture", HERE, _SKLEARN, kind="dedicated"),
    Peer("dynamax_em", "dynamax EM", HERE, ("dynamax", "jax"), kind="dedicated"),
    Peer("dynamax_moments", "dynamax CMGF", HERE, ("dynamax", "jax"), kind="dedicated"),
    Peer("statsmodels_kalman", "statsmodels", HERE, ("statsmodels",), kind="dedicated"),
    Peer("gpytorch_ngd", "GPyTorch NGD", "gpytorch", ("gpytorch", "torch"), (FULL,)),
    Peer("gpjax_natural", "GPJax natural gradients", "gpjax", ("gpjax", "jax"), (FULL,)),
    Peer("laplace_torch", "laplace-torch", "gpytorch", ("laplace-torch", "torch"), (FULL,)),
    Peer("ivon", "ivon-opt", "ivon", ("ivon-opt", "torch"), (MEAN_FIELD,), searches=True),
    Peer("goal_em", "goal-jax EM", "goal", ("goal-jax", "jax"), kind="other"),
)
PEERS = {peer.name: peer for peer in _ALL}
