# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Twenty of posteriordb's example models in plain vectorised Pyro, priors included.

Magnusson et al., *posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms*
(arXiv 2407.04967); the models are those of Stan's own examples, benchmarks and case studies. They
were not written for this package: how many of them it evaluates without draws is a measurement.

A parameter without a prior in Stan has ``dist.ImproperUniform`` here, a bounded one ``Uniform``;
Stan's truncated Cauchy and normal priors of scales are ``HalfCauchy`` and ``HalfNormal``.
Another posterior is one more function with ``@posterior``. ``database`` finds the data by
``PYRO_BLR_DATA``; ``Example.synthetic`` stands in for them.
"""

from . import counts, hierarchical, mixtures, regression, series  # noqa: F401 - they register
from .example import EXAMPLES, Example, origin

__all__ = ["EXAMPLES", "Example", "origin"]
