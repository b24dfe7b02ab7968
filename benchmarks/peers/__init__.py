# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Programs that solve the ten problems: each runs in a process, and an environment, of its own.

``python -m benchmarks environments`` makes the environments (``environments.py`` says of what);
``registry.py`` lists the peers. A module here has ``run(given) -> dict`` and is imported in its own
process alone, where ``worker.py`` calls it: nothing at the top of a module that two environments
share may import what one of them lacks.

All times are seconds of the processor (``time.process_time``) in a process held to the cores that
the run was given: a neighbour's load does not count. Imports and reading of data are not timed.
"""
