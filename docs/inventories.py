# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Where other projects document the names that these pages link to.

``sphinx.ext.intersphinx`` fetches such inventories from the network; the build must do without it.
A new link is a row here: the name as it is imported, and its page and anchor.
tests/test_documentation.py fails for a name that cannot be imported.
"""

import zlib
from pathlib import Path

PYTHON = {
    "object": "library/functions.html#object",
    "str": "library/stdtypes.html#str",
    "tuple": "library/stdtypes.html#tuple",
    "typing.Any": "library/typing.html#typing.Any",
    "abc.ABC": "library/abc.html#abc.ABC",
    "collections.abc.Mapping": "library/collections.abc.html#collections.abc.Mapping",
    **{
        name: f"library/exceptions.html#{name}"
        for name in (
            *("Exception", "ValueError", "RuntimeError", "KeyError", "MemoryError"),
            *("Warning", "UserWarning"),
            "NotImplementedError",
        )
    },
}
_INFER, _GUIDE, _DIST = "inference_algos.html", "infer.autoguide.html", "distributions.html"
PYRO = {
    "pyro.sample": "primitives.html#pyro.primitives.sample",
    "pyro.param": "primitives.html#pyro.primitives.param",
    "pyro.plate": "primitives.html#pyro.primitives.plate",
    "pyro.factor": "primitives.html#pyro.primitives.factor",
    "pyro.deterministic": "primitives.html#pyro.primitives.deterministic",
    "pyro.module": "primitives.html#pyro.primitives.module",
    "pyro.clear_param_store": "primitives.html#pyro.primitives.clear_param_store",
    "pyro.get_param_store": "primitives.html#pyro.primitives.get_param_store",
    "pyro.markov": "poutine.html#pyro.poutine.handlers.markov",
    "pyro.params.param_store.ParamStoreDict": (
        "parameters.html#pyro.params.param_store.ParamStoreDict"
    ),
    "pyro.optim.Adam": "optimization.html#pyro.optim.pytorch_optimizers.Adam",
    "pyro.optim.ClippedAdam": "optimization.html#pyro.optim.optim.ClippedAdam",
    "pyro.infer.SVI": f"{_INFER}#pyro.infer.svi.SVI",
    "pyro.infer.Trace_ELBO": f"{_INFER}#pyro.infer.trace_elbo.Trace_ELBO",
    "pyro.infer.TraceEnum_ELBO": f"{_INFER}#pyro.infer.traceenum_elbo.TraceEnum_ELBO",
    "pyro.infer.TraceMeanField_ELBO": (
        f"{_INFER}#pyro.infer.trace_mean_field_elbo.TraceMeanField_ELBO"
    ),
    "pyro.infer.TraceGraph_ELBO": f"{_INFER}#pyro.infer.tracegraph_elbo.TraceGraph_ELBO",
    "pyro.infer.JitTrace_ELBO": f"{_INFER}#pyro.infer.trace_elbo.JitTrace_ELBO",
    "pyro.infer.RenyiELBO": f"{_INFER}#pyro.infer.renyi_elbo.RenyiELBO",
    "pyro.infer.Predictive": f"{_INFER}#pyro.infer.predictive.Predictive",
    "pyro.infer.infer_discrete": f"{_INFER}#pyro.infer.discrete.infer_discrete",
    "pyro.infer.config_enumerate": f"{_INFER}#pyro.infer.enum.config_enumerate",
    **{
        f"pyro.infer.autoguide.{name}": f"{_GUIDE}#pyro.infer.autoguide.{name}"
        for name in (
            *("AutoGuideList", "AutoDelta", "AutoNormal", "AutoMultivariateNormal"),
            *("AutoDiagonalNormal", "AutoLowRankMultivariateNormal", "AutoNormalizingFlow"),
            *("AutoIAFNormal", "AutoLaplaceApproximation", "AutoDiscreteParallel"),
            "AutoStructured",
        )
    },
    "pyro.infer.reparam.LocScaleReparam": (
        "infer.reparam.html#pyro.infer.reparam.loc_scale.LocScaleReparam"
    ),
    **{
        f"pyro.poutine.{name}": f"poutine.html#pyro.poutine.handlers.{name}"
        for name in ("scale", "mask", "reparam", "block", "condition", "trace")
    },
    **dict.fromkeys(
        (
            "pyro.distributions.TorchDistribution",
            "pyro.distributions.torch_distribution.TorchDistribution",
        ),
        f"{_DIST}#pyro.distributions.torch_distribution.TorchDistribution",
    ),
    **{
        f"pyro.distributions.torch.{name}": f"{_DIST}#pyro.distributions.{name}"
        for name in (
            *("Bernoulli", "Beta", "Binomial", "Categorical", "Dirichlet", "Exponential", "Gamma"),
            *("Geometric", "Independent", "LogNormal", "Multinomial", "MultivariateNormal"),
            *("NegativeBinomial", "Normal", "Poisson", "VonMises", "InverseGamma", "Wishart"),
        )
    },
    "pyro.distributions.InverseGamma": f"{_DIST}#pyro.distributions.InverseGamma",
    "pyro.infer.autoguide.guides.AutoGuide": f"{_GUIDE}#pyro.infer.autoguide.AutoGuide",
    "pyro.distributions.DiscreteHMM": f"{_DIST}#pyro.distributions.DiscreteHMM",
    "pyro.distributions.GaussianHMM": f"{_DIST}#pyro.distributions.GaussianHMM",
}
TORCH = {
    "torch.nn.modules.module.Module": "generated/torch.nn.Module.html#torch.nn.Module",
    "torch.Tensor": "tensors.html#torch.Tensor",
    "torch.optim.optimizer.Optimizer": "optim.html#torch.optim.Optimizer",
    "torch.compile": "generated/torch.compile.html#torch.compile",
    "torch.gradient": "generated/torch.gradient.html#torch.gradient",
    "torch.einsum": "generated/torch.einsum.html#torch.einsum",
    "torch.where": "generated/torch.where.html#torch.where",
    "torch.save": "generated/torch.save.html#torch.save",
    "torch.load": "generated/torch.load.html#torch.load",
    "torch.library.custom_op": "library.html#torch.library.custom_op",
    "torch.distributions.Distribution": (
        "distributions.html#torch.distributions.distribution.Distribution"
    ),
    "torch.distributions.biject_to": (
        "distributions.html#module-torch.distributions.constraint_registry"
    ),
    "torch.utils.data.DataLoader": "data.html#torch.utils.data.DataLoader",
}
ARVIZ_BASE = {
    "arviz_base.from_dict": "api/generated/arviz_base.from_dict.html#arviz_base.from_dict",
}
ARVIZ_STATS = {
    f"arviz_stats.{name}": f"api/generated/arviz_stats.{name}.html#arviz_stats.{name}"
    for name in ("summary", "loo", "loo_approximate_posterior", "compare")
}
#: Each project: where its pages are, what it is called, and its names.
PROJECTS = {
    "python": ("https://docs.python.org/3/", "Python", PYTHON),
    "pyro": ("https://docs.pyro.ai/en/stable/", "Pyro", PYRO),
    "torch": ("https://docs.pytorch.org/docs/stable/", "PyTorch", TORCH),
    "arviz_base": ("https://python.arviz.org/projects/base/en/stable/", "ArviZ", ARVIZ_BASE),
    "arviz_stats": ("https://python.arviz.org/projects/stats/en/stable/", "ArviZ", ARVIZ_STATS),
}


#: Classes that are written in lower case.
LOWER = frozenset({"object", "str", "tuple", "pyro.plate"})
#: Functions that are written as classes.
UPPER = frozenset({"pyro.optim.Adam", "pyro.optim.ClippedAdam"})


def role_of(name: str) -> str:
    """What a name is: a class where its last part is capitalised, else a function."""
    is_class = name in LOWER or (name.rpartition(".")[2][:1].isupper() and name not in UPPER)
    return "py:class" if is_class else "py:function"


def inventory(project: str, names: dict[str, str]) -> bytes:
    """An inventory in sphinx's format, version 2: a head in plain text, and the rows compressed."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    rows = "".join(f"{name} {role_of(name)} 1 {place} -\n" for name, place in names.items())
    return head.encode() + zlib.compress(rows.encode())


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write every inventory, and return them as ``intersphinx_mapping`` wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for name, (address, project, names) in PROJECTS.items():
        file = folder / f"{name}.inv"
        file.write_bytes(inventory(project, names))
        mapping[name] = (address, str(file))
    return mapping
