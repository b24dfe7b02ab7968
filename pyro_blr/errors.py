# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Typed errors and warnings: each names the site and prints the mend."""

import sys
import warnings
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parent)
#: What stands between the user's line and the package's: context managers, torch's own wrappers.
_BETWEEN = ("contextlib", "torch.utils._contextlib", "torch.optim.optimizer")


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code that called the package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _is_passed(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_passed(frame: FrameType) -> bool:
    is_own = frame.f_code.co_filename.startswith(_PACKAGE)
    return is_own or frame.f_globals.get("__name__") in _BETWEEN


class BLRError(Exception):
    """Base class of every error that pyro_blr raises on purpose."""


class DomainError(BLRError, ValueError):
    """Natural or mean parameters lie outside the domain of their family."""


class ArgumentError(BLRError, ValueError):
    """An argument of ``BLR``, of a guide or of a step cannot be used."""


class UnknownNameError(BLRError, KeyError):
    """There is nothing of a name that was asked for."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError would quote the sentence


class GuideError(BLRError, ValueError):
    """The guide and the model do not fit: a site without a guide, or a guide without a site."""


class NoLatentError(GuideError):
    """The model has no latent variable, so there is nothing to infer."""


class DiscreteLatentError(GuideError):
    """A latent is discrete: it has no natural gradient and must be summed out or observed."""


class ControlFlowError(BLRError):
    """A latent's value was asked for where it has none: ``if``, ``float()``, NumPy, in place.

    It is no ``TypeError``: torch turns those into "unsupported operand", without the mend.
    """


class NonFiniteError(BLRError, ValueError):
    """A datum, a constant or a factor is NaN or infinite."""


class SupportError(BLRError, ValueError):
    """An observed value lies outside the support of its distribution."""


class ParameterError(BLRError, ValueError):
    """A constant argument of a distribution lies outside its domain."""


class ImproperPosteriorError(BLRError, ValueError):
    """The messages of the model do not sum to a proper distribution."""


class SaddleError(BLRError, ValueError):
    """Newton's step was asked for where the Hessian is not positive definite."""


class EmptyStateError(BLRError, ValueError):
    """A state of a discrete latent has no data that its parameters could be learnt from."""


class NotConjugatedError(BLRError, ValueError):
    """A model is not conjugated, and only exact results were asked for."""


class ProbabilityError(BLRError, ValueError):
    """A table of probabilities has a negative entry, or does not sum to 1."""


class BoundaryError(BLRError, ValueError):
    """A parameter lies on the boundary of its model, where the Fisher metric is infinite."""


class SingularFisherError(BLRError, ValueError):
    """A Fisher matrix has no inverse, and no other was chosen in its place."""


class PlateSizeError(BLRError, ValueError):
    """A plate that holds a stored latent changed its size."""


class SubsampleError(BLRError, ValueError):
    """A minibatch does not fit its plate, a plate has no rows, or guide and model hold others."""


class CheckpointError(BLRError, ValueError):
    """A saved state is not one of this model, guide and optimiser, or parts of it are missing."""


class ShapeError(BLRError, ValueError):
    """A site's log density has a dim that none of its plates declares."""


class StaleDataError(BLRError, RuntimeError):
    """Data changed behind the cache: a fresh trace disagrees with the folded one."""


class StepOrderError(BLRError, RuntimeError):
    """An optimiser's calls came in the wrong order: a step without a draw, a draw within a draw."""


class DeviceError(BLRError, ValueError):
    """Tensors that must meet are on different devices, or of different or unusable dtypes."""


class ProcessError(BLRError, RuntimeError):
    """One of several processes failed, is gone, or is at another place of the run."""


class SampledFactorError(BLRError, RuntimeError):
    """A factor needs draws of the guide, which are forbidden, or its derivatives there."""


class SampledFactorWarning(UserWarning):
    """A factor has no deterministic expectation and is evaluated at draws of the guide."""


class SkippedStepWarning(UserWarning):
    """A step was not taken: the ELBO was NaN or infinite, and finite when the call was repeated."""


class RemovedComponentWarning(UserWarning):
    """A component of a mixture had next to no weight, and was taken out of the guide."""


class LeftOutWarning(UserWarning):
    """A part of what was asked for is left out, since it cannot be had."""


class ChangedRanksWarning(UserWarning):
    """A state was saved on another number of processes than it is resumed on."""


class LoneRankWarning(UserWarning):
    """There are other processes, and nothing keeps their weights together."""


class RunningStatisticsWarning(UserWarning):
    """A BatchNorm layer gathers its running statistics at drawn weights."""


class DropoutWarning(UserWarning):
    """A Dropout layer is in training mode, so that a model's likelihood is another at each run."""


class RenamedWarning(UserWarning):
    """A site has another name in what was made, as its own is taken there."""


class NonFiniteWarning(UserWarning):
    """A value that a model computes of its latents is NaN or infinite at some draws."""


class MemoryLimitError(BLRError, MemoryError):
    """A matrix would not fit into memory; it was not allocated."""
