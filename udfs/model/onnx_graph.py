"""What an ONNX file asks for, read without the `onnx` package and before ONNX Runtime sees it.

A worker needs three facts of a graph: its operators, whether weights lie in other files, and whether it
holds parts that could hide an operator. Protocol Buffers' wire format is a list of (field, value), so a
walk over the fields below gives them; the `onnx` package stays a dependency of training alone. The walk
refuses what it does not fully understand, and visits every occurrence of a field, while a parser that
keeps the last one sees a subset.

Source: Protocol Buffers encoding; onnx.proto (ModelProto, GraphProto, NodeProto, AttributeProto,
TensorProto), IR version 10.
"""

from dataclasses import dataclass

from udfs.model.refusal import BundleRefused
from udfs.model.wire_format import wire_fields

# A tree's score of a row is one sum in tree order, whatever rows stand beside it.
ROW_EXACT_OPERATORS = frozenset({
    "ai.onnx.ml:TreeEnsemble",
    "ai.onnx.ml:TreeEnsembleRegressor",
    ":Cast",
    ":Constant",
    ":Identity",
    ":Reshape",
    ":Squeeze",
    ":Unsqueeze",
})  # fmt: skip
# A matrix product may group its additions by the number of rows: such a ranker is run user by user.
ALLOWED_OPERATORS = ROW_EXACT_OPERATORS | {
    ":Add", ":BatchNormalization", ":Clip", ":Concat", ":Div", ":Exp", ":Flatten", ":Gather", ":Gelu",
    ":Gemm", ":LayerNormalization", ":LeakyRelu", ":Log", ":MatMul", ":Max", ":Min", ":Mul", ":Neg", ":Pow",
    ":ReduceMean", ":ReduceSum", ":Relu", ":Sigmoid", ":Slice", ":Softmax", ":Softplus", ":Split", ":Sqrt",
    ":Sub", ":Tanh", ":Transpose", ":Where", "ai.onnx.ml:Scaler",
}  # fmt: skip

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """The operators of a graph as ``domain:name``; the default domain is empty."""

    operators: frozenset[str]

    @property
    def row_exact(self) -> bool:
        """Whether a row's score cannot depend on the rows scored with it."""
        return self.operators <= ROW_EXACT_OPERATORS


def read_graph(model: bytes, allowed: frozenset[str] = ALLOWED_OPERATORS) -> OnnxGraph:
    """Walk a serialised ModelProto.

    Parameters
    ----------
    model
        Its bytes.
    allowed
        The operators that it may have.

    Raises
    ------
    BundleRefused
        ``operators`` for an operator off the allow-list, a subgraph, a function or a sparse tensor,
        ``external_data`` for weights in another file, ``ranker`` for bytes that are not ONNX.
    """
    operators: set[str] = set()
    graphs = 0
    for field, value in wire_fields(memoryview(model)):
        if field == _MODEL_GRAPH and isinstance(value, memoryview):
            graphs += 1
            _walk_graph(value, operators)
        elif field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise BundleRefused(
                "operators", f"ONNX: model-local functions and training parts (field {field})"
            )
    if graphs != 1 or not operators:
        raise BundleRefused("ranker", f"ONNX: wanted one graph with nodes, got {graphs} graphs")
    refused = sorted(operators - allowed)
    if refused:
        raise BundleRefused("operators", f"ONNX: not on the allow-list: {', '.join(refused)}")
    return OnnxGraph(frozenset(operators))


def _walk_graph(graph: memoryview, operators: set[str]) -> None:
    for field, value in wire_fields(graph):
        if field == _GRAPH_NODE and isinstance(value, memoryview):
            _walk_node(value, operators)
        elif field == _GRAPH_INITIALIZER and isinstance(value, memoryview):
            _check_tensor(value)
        elif field == _GRAPH_SPARSE:
            raise BundleRefused("operators", "ONNX: sparse initializers are not taken")


def _walk_node(node: memoryview, operators: set[str]) -> None:
    names = [""]
    domains = []
    for field, value in wire_fields(node):
        if not isinstance(value, memoryview):
            continue
        if field == _NODE_OPERATOR:
            names.append(_text(value))
        elif field == _NODE_DOMAIN:
            domains.append(_text(value))
        elif field == _NODE_ATTRIBUTE:
            _walk_attribute(value)
    if len(names) != 2 or len(domains) > 1:
        raise BundleRefused("ranker", "ONNX: a node with no or several operator types")
    domain = domains[0] if domains else ""
    operators.add(f"{'' if domain == 'ai.onnx' else domain}:{names[-1]}")


def _walk_attribute(attribute: memoryview) -> None:
    for field, value in wire_fields(attribute):
        if field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, *_ATTRIBUTE_SPARSE):
            raise BundleRefused("operators", "ONNX: subgraphs and sparse tensors in attributes are not taken")
        if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(value, memoryview):
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for field, value in wire_fields(tensor):
        if field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0):
            raise BundleRefused("external_data", "ONNX: a tensor's data lies in another file")


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise BundleRefused("ranker", f"ONNX: a name is not UTF-8: {error}") from error
