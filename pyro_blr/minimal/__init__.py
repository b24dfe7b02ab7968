# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""The Bayesian Learning Rule in two small files: scalar sites, no plates, conjugate models.

This is the idea of the package with everything else left out, to be read first and to test the
rest against. A Pyro model is run once, with a symbol in the place of each latent. Sums and products
of symbols and numbers are polynomials, and so is the log density of every site:

.. math:: \log p(x, z) = \sum_t c_t \prod_i T_{t,i}(z_i),

with a sufficient statistic T of each independent latent. Its expectation under q is the same
polynomial at the mean parameters E[T], and its gradient there is the sum of all messages. A step is

.. math:: \mathrm{natural} \leftarrow (1 - \rho)\,\mathrm{natural}
          + \rho\,\nabla_{\mathrm{mean}} E_q[\log p(x, z)],

which is the exact coordinate update at :math:`\rho = 1` (arXiv 2107.04562). No pair of
distributions is declared conjugate; what is no such polynomial raises :class:`NotConjugate`.
Squares are multiplied out, so data far from zero compared with their spread lose digits.

Example::

    >>> import torch, pyro, pyro.distributions as dist
    >>> from pyro_blr import minimal
    >>> def model(data):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    ...     for i, x in enumerate(data):
    ...         pyro.sample(f"x{i}", dist.Normal(mu, tau**-0.5), obs=x)
    >>> result = minimal.fit(model, torch.tensor([1.2, 0.7, 1.9]), steps=50)
    >>> round(result.elbo, 4)
    -5.9351

``polynomial`` is the algebra, ``rule`` runs the model and takes the steps.
"""

from pyro_blr.minimal.polynomial import NotConjugate, Polynomial
from pyro_blr.minimal.rule import Fit, fit

__all__ = ["Fit", "NotConjugate", "Polynomial", "fit"]
