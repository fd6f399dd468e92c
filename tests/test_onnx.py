"""The backend node cases of the installed onnx package: inputs, attributes and outputs are its own.

Knows which call here is which operator there. Must not know any expected number.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", exc_type=ModuleNotFoundError)

# ONNX gives its outputs in float32, computed in float32; log-probabilities reach from 0 to -20.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-6, 1e-6
# Of onnx 1.23. Were fewer found, the package would keep its cases elsewhere.
EXPECTED_COUNTS = {
    "SoftmaxCrossEntropyLoss": 34,
    "NegativeLogLikelihoodLoss": 18,
    "Softmax": 7,
    "LogSoftmax": 7,
}


def collect_cases() -> list[Any]:
    """The cases of the four operators, without those that spell an operator out in others.

    Importing a module of cases adds them to the list; `load_model_tests`, which imports the cases
    of every operator, takes ten seconds.
    """
    package = "onnx.backend.test.case.node"
    for module in (
        "softmax_cross_entropy_loss",
        "negativeloglikelihoodloss",
        "softmax",
        "logsoftmax",
    ):
        importlib.import_module(f"{package}.{module}")
    return [
        case
        for case in importlib.import_module(package)._NodeTestCases
        if case.model.graph.node[0].op_type in EXPECTED_COUNTS and "_expanded" not in case.name
    ]


CASES = collect_cases()


def outputs_of(implementation: ModuleType, node: Any, inputs: list[np.ndarray]) -> list[Any]:
    """What the node gives for its inputs."""
    attributes = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute
    }
    if node.op_type in ("Softmax", "LogSoftmax"):
        function = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[node.op_type]
        return [getattr(implementation, function)(*inputs, axis=attributes.get("axis", -1))]
    options = {
        "axis": 1,
        "weight": inputs[2] if len(inputs) == 3 else None,
        "ignore_index": attributes.get("ignore_index"),
        "reduction": attributes.get("reduction", b"mean").decode(),
    }
    if node.op_type == "NegativeLogLikelihoodLoss":
        # Its input is called log-probabilities, and is neither normalised nor negative. The loss is
        # linear in it: `unit` is what every log-probability of -1 costs.
        most = inputs[0].max()
        lowered = implementation.cross_entropy(np.exp(inputs[0] - most), inputs[1], **options)
        unit = implementation.cross_entropy(
            np.full_like(inputs[0], np.exp(-1)), inputs[1], **options
        )
        return [lowered - most * unit]
    loss = implementation.softmax_cross_entropy(*inputs[:2], **options)
    return [loss, implementation.log_softmax(inputs[0], axis=1)][: len(node.output)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(implementation: ModuleType, case: Any) -> None:
    for inputs, want in case.data_sets:
        got = outputs_of(implementation, case.model.graph.node[0], inputs)
        assert len(got) == len(want)
        for ours, theirs in zip(got, want, strict=True):
            assert np.shape(ours) == theirs.shape
            np.testing.assert_allclose(
                ours, theirs, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
            )


def test_every_operator_has_its_cases() -> None:
    counts = dict.fromkeys(EXPECTED_COUNTS, 0)
    for case in CASES:
        counts[case.model.graph.node[0].op_type] += 1
    assert counts == EXPECTED_COUNTS
