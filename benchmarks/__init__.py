# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Benchmarks: each row has a time and a quality, and says whether it keeps its limit.

::

    python -m benchmarks                          # all of them, about ten minutes
    python -m benchmarks regression_large svi     # some of them
    PYRO_BLR_DATA=folder python -m benchmarks     # with the data sets that are not packaged

``regression_bayespy``, ``ppca`` and ``factorisation`` compare sweeps with BayesPy's
(``pip install pyro-blr[bench]``); ``a1a`` and ``stan`` read data sets that are not packaged;
``gpu`` is skipped where there is none;
``stan`` counts how many of twenty models of posteriordb need no draws; ``optimisers`` compares IVON
and VOGN with AdamW, and ``optimisers_gpu`` IVON on a GPU, without which it is skipped;
``mean_field`` and ``uci`` compare them with mean-field VI by Adam. ``problems`` has ten problems
and every peer on each of them side by side; the page of the documentation is made of it.

Two sides of a ratio are timed in the same run, in turn, on the same number of threads. One thread
is the default: the operations of a step are small, a second thread slows them whenever another
process has the core, and the ratio would then measure the neighbours. ``--threads 2`` compares
on two; either way the number is printed and written.
"""
