# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The outputs of a network that a likelihood is a concave function of.

A log density ``l(o(z))`` with l concave in the outputs o has the Hessian ``J' l'' J`` plus the
slopes ``l'`` times the curvature of o; the first part, Gauss and Newton's, is never positive.
"""

from dataclasses import dataclass

from .elementwise import LINEAR_TAIL, is_elementwise, name_of
from .recorded import LogDensity
from .tensor import LiftedTensor, lifted_in, program

#: The arguments in each of which a log density is concave, the others given, and their event dims.
#: For logits and rates the slope is ``y - E[y]``-like, of which the derivative is a variance.
CONCAVE: dict[str, dict[str, int]] = {
    "Normal": {"loc": 0, "value": 0},
    "LogNormal": {"loc": 0},
    "Logistic": {"loc": 0, "value": 0},
    "Gumbel": {"loc": 0, "value": 0},
    "MultivariateNormal": {"loc": 1},
    "Bernoulli": {"logits": 0, "probs": 0},
    "Binomial": {"logits": 0, "probs": 0},
    "Geometric": {"logits": 0, "probs": 0},
    "NegativeBinomial": {"logits": 0, "probs": 0},
    "Categorical": {"logits": 1},
    "OneHotCategorical": {"logits": 1},
    "Multinomial": {"logits": 1},
    "Poisson": {"rate": 0},
    "Exponential": {"rate": 0},
    "Gamma": {"rate": 0},
}

#: Functions in front of an argument, behind which the log density is concave too, and the event
#: dims there. At a Poisson's rate ``l'' = -y / rate^2``, at its logarithm Fisher's ``-rate``.
LINKS: dict[tuple[str, str], tuple[frozenset[str], int]] = {
    **{
        (name, "probs"): (frozenset({"sigmoid", "expit", "special_expit"}), 0)
        for name in ("Bernoulli", "Binomial", "Geometric", "NegativeBinomial")
    },
    **{
        (name, "probs"): (frozenset({"softmax"}), 1)
        for name in ("Categorical", "OneHotCategorical", "Multinomial")
    },
    **{(name, "rate"): (frozenset({"exp"}), 0) for name in ("Poisson", "Exponential", "Gamma")},
}


#: Products of matrices and convolutions: a layer, where they meet a nonlinear function of latents.
PRODUCTS = frozenset(
    """
    linear matmul mm bmm mv dot addmm addmv baddbmm einsum tensordot bilinear inner vdot
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    scaled_dot_product_attention multi_head_attention_forward __matmul__ __rmatmul__
    """.split()  # noqa: SIM905 - a table of words
)


@dataclass(frozen=True, eq=False)
class Output:
    """Where a log density is cut into a network and a concave function of its outputs.

    :param node: the outputs. # shape: (*batch[, K])
    :param is_vector: whether the K elements of the last dim enter one density together; all others
        enter one each.
    :param is_mixed: whether it depends on the latents through an operation that mixes elements.
    """

    node: LiftedTensor
    is_vector: bool
    is_mixed: bool


def output_of(density: LiftedTensor, names: frozenset[str]) -> Output | None:
    """The one place through which a log density depends on latents, if it is concave there.

    :param density: the log density along the batch dims.
    :param names: the latents.
    """
    node = _recorded(density)
    if node is None or node.call is None:
        return None
    touched = [n for n in node.call.inputs if not names.isdisjoint(n.site_names)]
    if len({id(n) for n in touched}) != 1:
        return None
    assert isinstance(node.call.function, LogDensity)
    found = _concave_at(node.call.function, node.call.args[0], touched[0])
    if found is None:
        return None
    output, event_dim = found
    return Output(output, event_dim == 1, _is_mixed(output, names))


def _recorded(density: LiftedTensor) -> LiftedTensor | None:
    """The recorded log density behind sums, moved elements and constant masks."""
    node = density
    while node.call is not None and not isinstance(node.call.function, LogDensity):
        inputs = node.call.inputs
        masked = name_of(node) in ("mul", "__mul__", "__rmul__")
        if len(inputs) != 1 or not (masked or name_of(node) in LINEAR_TAIL - {"neg", "__neg__"}):
            return None
        node = inputs[0]
    return None if node.call is None else node


def _concave_at(
    density: LogDensity, value: object, node: LiftedTensor
) -> tuple[LiftedTensor, int] | None:
    """The outputs, at an argument or behind its link, and their event dims."""
    arguments = getattr(density.fn, "arguments", None)
    name = getattr(getattr(density.fn, "distribution", None), "__name__", "")
    if arguments is None:
        return None
    held = [k for k, a in arguments.items() if any(n is node for n in lifted_in([a]))]
    held += ["value"] if value is node else []
    if len(held) != 1:
        return None
    if (link := LINKS.get((name, held[0]))) is not None and name_of(node) in link[0]:
        assert node.call is not None
        if len(node.call.inputs) == 1:
            return node.call.inputs[0], link[1]
    dims = CONCAVE.get(name, {}).get(held[0])
    return None if dims is None else (node, dims)


def _is_mixed(output: LiftedTensor, names: frozenset[str]) -> bool:
    """Whether an element of the output depends on many elements of the latents' values."""
    values = {id(n) for n in program([output]) if n.is_value or n.call is None}
    for node in program([output], given=values):
        if id(node) in values or is_elementwise(node):
            continue
        if not names.isdisjoint(node.site_names):
            return True
    return False


def is_network(density: LiftedTensor) -> bool:
    """Whether a nonlinear function of latents enters a product of matrices or a convolution."""
    return any(
        name_of(n) in PRODUCTS and n.call is not None and any(i.poly is None for i in n.call.inputs)
        for n in program([density])
    )
