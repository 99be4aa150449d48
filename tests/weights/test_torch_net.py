import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch (the extra 'train') is not installed")

from engine import nets  # noqa: E402
from engine.graph import Graph, Node, UnsupportedOperator, Value  # noqa: E402
from engine.model import Model  # noqa: E402
from weights.recipes import RECIPES  # noqa: E402
from weights.torch_net import TorchNet  # noqa: E402
from weights.train import to_arrays  # noqa: E402

NETS = sorted({recipe.net for recipe in RECIPES.values()})


def graph_of(nodes, parameters, inputs=(3, 8, 8), outputs=(4, 4, 4)):
    return Graph("made", (Value("x", (0, *inputs)),), (Value("y", (0, *outputs)),), tuple(nodes), parameters)


@pytest.mark.parametrize("name", NETS)
def test_the_module_equals_the_engine(name):
    torch.manual_seed(0)
    graph = nets.build(name)
    net = TorchNet(graph).eval()
    card = nets.default_card(name)
    inputs = np.random.default_rng(0).normal(size=(3, *card.input_shape)).astype(np.float32)
    found = Model(card, graph.bind(to_arrays(net))).run(inputs)
    with torch.no_grad():
        np.testing.assert_allclose(found, net(torch.tensor(inputs)).numpy(), atol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_parameters_have_the_names_and_shapes_of_the_graph(name):
    graph = nets.build(name)
    found = {key: value.shape for key, value in to_arrays(TorchNet(graph)).items()}
    assert found == dict(graph.parameters)


def test_initial_values_are_those_of_pytorch():
    torch.manual_seed(3)
    found = TorchNet(nets.build("mnist")).state_dict()
    torch.manual_seed(3)
    conv, fc = torch.nn.Conv2d(1, 10, 5), torch.nn.Linear(1440, 10)
    assert torch.equal(found["conv1.weight"], conv.weight)
    assert torch.equal(found["fc.bias"], fc.bias)


def test_a_residual_block_equals_pytorch():
    norm = {f"layer1.0.bn.{field}": (4,) for field in ("weight", "bias", "running_mean", "running_var")}
    nodes = (
        Node("Conv", ("x", "layer1.0.conv.weight"), ("a",), {"strides": (2, 2), "pads": (0, 0, 1, 1)}),
        Node("BatchNormalization", ("a", *norm), ("b",), {"epsilon": 1e-5}),
        Node("MaxPool", ("b",), ("c",), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
        Node("Add", ("b", "c"), ("d",)),
        Node("Relu", ("d",), ("y",)),
    )
    net = TorchNet(graph_of(nodes, {"layer1.0.conv.weight": (4, 3, 3, 3), **norm}))
    block = net.get_submodule("layer1.0")
    x = torch.randn(5, 3, 8, 8)
    net.train()
    net(x)
    assert block.bn.running_mean.abs().sum() > 0, "training updates the norm's statistics"
    net.eval()
    normed = block.bn(block.conv(torch.nn.functional.pad(x, (0, 1, 0, 1))))
    expected = torch.relu(normed + torch.nn.functional.max_pool2d(normed, 3, 1, 1))
    torch.testing.assert_close(net(x), expected)


def test_pooling_and_softmax_equal_pytorch():
    nodes = (
        Node("AveragePool", ("x",), ("a",), {"kernel_shape": (2, 2), "strides": (2, 2)}),
        Node("GlobalAveragePool", ("a",), ("b",)),
        Node("Flatten", ("b",), ("c",)),
        Node("Softmax", ("c",), ("y",)),
    )
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(TorchNet(graph_of(nodes, {}))(x), torch.softmax(x.mean((2, 3)), 1))


def test_dropout_acts_only_in_training():
    net = TorchNet(graph_of([Node("Dropout", ("x",), ("y",), {"ratio": 0.5})], {}))
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(net.eval()(x), x)
    assert set(net.train()(x).unique().tolist()) == {0.0, 2.0}


def test_activations_of_mobilenets_equal_pytorch():
    nodes = (
        Node("Clip", ("x",), ("a",), {"min": 0.0, "max": 6.0}),
        Node("HardSwish", ("a",), ("b",)),
        Node("HardSigmoid", ("x",), ("c",), {"alpha": 1 / 6, "beta": 0.5}),
        Node("Mul", ("b", "c"), ("d",)),
        Node("Unsqueeze", ("d",), ("y",), {"axes": (2,)}),
    )
    x = 5 * torch.randn(2, 3)
    expected = torch.nn.functional.hardswish(torch.nn.functional.relu6(x)) * torch.nn.functional.hardsigmoid(x)
    torch.testing.assert_close(TorchNet(graph_of(nodes, {}, (3,), (3, 1)))(x), expected[:, :, None])


def test_a_one_dimensional_norm_is_trained_and_an_unused_one_is_not():
    fields = ("weight", "bias", "running_mean", "running_var")
    nodes = (Node("BatchNormalization", ("x", *(f"bn.{field}" for field in fields)), ("y",)),)
    parameters = {f"{name}.{field}": (3,) for name in ("bn", "unused") for field in fields}
    net = TorchNet(graph_of(nodes, parameters, (3, 7), (3, 7)))
    assert {name: value.shape for name, value in to_arrays(net).items()} == parameters
    x = torch.randn(50, 3, 7) + 2
    torch.testing.assert_close(net.train()(x).mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    assert net.bn.running_mean.min() > 0
    assert net.unused.running_mean.abs().max() == 0


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("Erf", ("x",), ("y",)), "Erf"),
        (Node("MaxPool", ("x",), ("y",), {"kernel_shape": (2, 2), "ceil_mode": 1}), "ceil_mode 1"),
        (Node("AveragePool", ("x",), ("y",), {"kernel_shape": (2, 2), "pads": (1, 1, 1, 1)}), "count_include_pad 0"),
        (Node("MaxPool", ("x",), ("y",), {"kernel_shape": (2, 2), "auto_pad": "SAME_UPPER"}), "auto_pad SAME_UPPER"),
        (Node("Flatten", ("x",), ("y",), {"axis": 2}), "axis 2"),
        (Node("Gemm", ("x", "w"), ("y",), {}), "transB"),
    ],
)
def test_unsupported_operators_raise_an_error(node, message):
    with pytest.raises(UnsupportedOperator, match=message):
        TorchNet(graph_of([node], {"w": (3, 4)}))
