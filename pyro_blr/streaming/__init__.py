# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data in a stream: added to a posterior, taken out of it again, and fits of parts put together."""

from .result import Streamed

__all__ = ["Streamed"]
