# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How the inverse of a block-tridiagonal matrix S changes with it, where S has blocks of its own.

A change dS changes C = S^-1 by dC = -C dS C. Of that the parts dC_tt and dC_t,t+1 are found without
the others: the equations of each level of the elimination are differentiated, whose slopes and
inverses are known. With ``B_o = [S_o,o-1  S_o,o+1]`` an eliminated block has the slopes
``G_o = S_oo^-1 B_o``, which change by

    dG = S_oo^-1 (dB - dS_oo G).

On the way down the blocks that are left change by

    d(S_ee - B'S_oo^-1 B) = dS_ee - (G'A + A'G),   A = dB - dS_oo G / 2,

and on the way up, with K the covariance of an eliminated block's neighbours, ``C_o,n = -G K`` and
``C_oo = S_oo^-1 + G K G'`` change by

    dC_o,n = -M,   dC_oo = M G' + G K dG' - S_oo^-1 dS_oo S_oo^-1,   M = dG K + G dK.
"""

from torch import Tensor

from .chain_matrices import ChainFactor, Level
from .chain_places import (
    Parts,
    every_second,
    left_after,
    pairs,
    towards_neighbours,
    with_eliminated,
)


def change_of_inverse(factor: ChainFactor, change: Parts) -> Parts:
    """Return the parts of dC = -C dS C.

    :param factor: that of S.
    :param change: the parts of dS; dS_tt is symmetric.
    """
    changes = [change]
    for level in factor.levels:
        changes.append(_left_after(level, changes[-1]))
    root = factor.inverses[-1][0]
    own, beside = changes.pop()
    moved = -root @ own @ root, beside
    for place in reversed(range(len(factor.levels))):
        known = factor.inverses[place + 1]
        moved = _extended(factor.levels[place], changes[place], known, moved)
    return moved


def _left_after(level: Level, change: Parts) -> Parts:
    """The change of the blocks that are left after a level."""
    own, towards = _eliminated(change)
    half = level.slopes.mT @ (towards - 0.5 * own @ level.slopes)
    return left_after(change, half + half.mT)


def _extended(level: Level, change: Parts, known: Parts, moved: Parts) -> Parts:
    """The change of the inverse with the blocks of a level.

    :param change: of the matrix in front of the level.
    :param known: the inverse of what is left after it.
    :param moved: the change of that.
    """
    own, towards = _eliminated(change)
    count, slopes, given = own.shape[-3], level.slopes, level.given
    d_slopes = given @ (towards - own @ slopes)
    covariance = pairs(known, count)
    d_moved = d_slopes @ covariance + slopes @ pairs(moved, count)
    d_own = d_moved @ slopes.mT + slopes @ covariance @ d_slopes.mT - given @ own @ given
    return with_eliminated(moved, d_own, -d_moved)


def _eliminated(change: Parts) -> tuple[Tensor, Tensor]:
    """dS_oo and dB of the blocks that a level eliminates."""
    own = every_second(change[0], 1, 2)
    return own, towards_neighbours(change[1], own.shape[-3])
