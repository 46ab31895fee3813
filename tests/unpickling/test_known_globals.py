"""What names mean: against torch and NumPy themselves, and against arguments that they would not take."""

import collections
import io
import pickle
import zipfile

import pytest

from rekindle.finding import Severity
from rekindle.limits import DEFAULT_LIMITS, Limits
from rekindle.source import BufferBytes
from rekindle.tensors import DTYPE_OF_STORAGE, DTYPES, Storage
from rekindle.tree import Global, Map, Module, Record, SetOf, SparseTensor, StorageRef, Tensor
from rekindle.unpickling.known_globals import BUILDS, MEANINGS, Context, call
from rekindle.unpickling.machine import run_program


def saved(value, **options):
    """Return the outcome of the pickle that torch.save writes, with the bytes of its storages."""
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(value, file, **options)
    with zipfile.ZipFile(file) as archive:
        program = archive.read("archive/data.pkl")
        records = {name.rsplit("/", 1)[1]: archive.read(name) for name in archive.namelist() if "/data/" in name}
    storages = {}

    def persistent(pid):
        _, kind, key, location, numel = pid
        dtype = DTYPES["uint8"] if kind.name == "UntypedStorage" else DTYPE_OF_STORAGE[kind.name]
        if key not in storages:
            storages[key] = Storage(key, len(records[key]), BufferBytes(memoryview(records[key])), location)
        return StorageRef(storages[key], dtype.name, 0, numel)

    return run_program(program, persistent=persistent)


def in_torch(tensor):
    """Build the torch tensor that a node describes."""
    import torch

    raw = bytearray(b"".join(tensor.storage.data.chunks()))
    flat = (
        torch.frombuffer(raw, dtype=getattr(torch, tensor.dtype))
        if raw
        else torch.empty(0, dtype=getattr(torch, tensor.dtype))
    )
    return torch.as_strided(flat, tensor.shape, tensor.stride, tensor.offset)


# ---- torch


def test_strided_tensors_are_what_torch_saved():
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    cases = {
        "whole": base,
        "transposed": base.transpose(0, 2),
        "offset": base[1, 1:],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "trained": torch.ones(2, requires_grad=True),
    }
    outcome = saved(cases)
    assert outcome.findings == []
    for name, node in outcome.value.pairs:
        real = cases[name]
        assert isinstance(node, Tensor)
        assert (node.shape, node.stride, node.offset) == (tuple(real.shape), real.stride(), real.storage_offset())
        assert (node.requires_grad, node.parameter, node.attributes) == (real.requires_grad, False, None)
        assert torch.equal(in_torch(node), real.detach())
    shared = {name: node.storage for name, node in outcome.value.pairs}
    assert shared["whole"] is shared["transposed"] is shared["offset"]
    assert shared["whole"] is not shared["scalar"]


@pytest.mark.parametrize("name", [name for name in DTYPES if not name.startswith(("q", "bits", "bcomplex", "float4"))])
def test_every_dtype_is_named_as_torch_names_it(name):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, name)
    node = saved(torch.zeros(6, dtype=torch.uint8).repeat(16).view(dtype)[1:]).value
    assert isinstance(node, Tensor)
    assert (node.dtype, node.offset) == (name, 1)
    assert node.shape == (96 // DTYPES[name].itemsize - 1,)


def test_lazy_conjugation_and_negation_are_said():
    torch = pytest.importorskip("torch")
    value = torch.tensor([1 + 2j])
    conjugate, negative = saved([value.conj(), value.clone().conj().imag]).value
    assert (conjugate.conj, conjugate.neg) == (True, False)
    assert (negative.conj, negative.neg) == (False, True)
    assert conjugate.attributes is None


def test_parameters_say_so_and_keep_their_attributes():
    torch = pytest.importorskip("torch")
    plain = torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    marked = torch.nn.Parameter(torch.ones(2))
    marked.scale = 3
    nodes = saved([plain, frozen, marked]).value
    assert [node.parameter for node in nodes] == [True] * 3
    assert [node.requires_grad for node in nodes] == [True, False, True]
    assert nodes[0].attributes is None
    assert nodes[2].attributes.pairs == [("scale", 3)]


def test_a_parameter_is_another_node_than_its_data_and_keeps_what_the_data_is():
    data = Tensor(STORAGE, "float32", 0, (2,), (1,))
    data.conj, data.neg, data.quantizer = True, True, ("per_tensor_affine", 1.0, 0)
    data.attributes = Map([("note", 1)])
    node, _ = meaning("torch._utils._rebuild_parameter", data, True, Map())
    assert (node.parameter, node.requires_grad, data.parameter, data.requires_grad) == (True, True, False, False)
    assert (node.conj, node.neg, node.quantizer) == (True, True, data.quantizer)
    assert node.attributes.pairs == [("note", 1)]


def test_a_plain_tensor_may_carry_attributes():
    torch = pytest.importorskip("torch")
    plain = torch.ones(2)
    plain.note = "hello"
    buffer = torch.nn.Buffer(torch.ones(2))
    first, second = saved([plain, buffer]).value
    assert first.attributes.pairs == [("note", "hello")]
    assert (second.shape, second.parameter) == ((2,), False)


def test_a_tensor_of_a_subclass_names_its_class():
    function, kind = Global("torch._utils", "_rebuild_tensor_v2"), Global("mine", "Marked")
    inner = (REF, 0, (2,), (1,), False, Map())
    state = (Map([("note", 1)]), Map([("slot", 2)]))
    for name in ("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type"):
        node, findings = meaning(name, function, kind, inner, state)
        assert isinstance(node, Tensor)
        assert node.attributes.pairs == [("__class__", kind), ("note", 1), ("slot", 2)]
        assert findings == []
    unknown, _ = meaning("torch._tensor._rebuild_from_type_v2", Global("mine", "make"), kind, inner, state)
    assert isinstance(unknown, Record)


def test_sparse_tensors_are_made_of_tensors():
    torch = pytest.importorskip("torch")
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    coo = dense.to_sparse()
    names = {
        "sparse_coo": ["indices", "values"],
        "sparse_csr": ["crow_indices", "col_indices", "values"],
        "sparse_csc": ["ccol_indices", "row_indices", "values"],
        "sparse_bsr": ["crow_indices", "col_indices", "values"],
        "sparse_bsc": ["ccol_indices", "row_indices", "values"],
    }
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: sparse CSR is in beta
        cases = {
            "sparse_coo": coo,
            "sparse_csr": dense.to_sparse_csr(),
            "sparse_csc": dense.to_sparse_csc(),
            "sparse_bsr": dense.to_sparse_bsr((1, 1)),
            "sparse_bsc": dense.to_sparse_bsc((1, 1)),
        }
        outcome = saved(cases)
        assert outcome.findings == []
        for name, node in outcome.value.pairs:
            assert isinstance(node, SparseTensor)
            assert (node.layout, node.shape, list(node.parts)) == (name, (2, 2), names[name])
            for part, tensor in node.parts.items():
                real = getattr(cases[name], part if name != "sparse_coo" else f"_{part}")()
                assert torch.equal(in_torch(tensor), real)
    assert outcome.value.pairs[0][1].is_coalesced is True


def test_nested_tensors_of_both_layouts():
    torch = pytest.importorskip("torch")
    import warnings

    parts = [torch.ones(2, 3), torch.ones(4, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: nested tensors are a prototype
        strided, jagged = saved(
            [torch.nested.nested_tensor(parts), torch.nested.nested_tensor(parts, layout=torch.jagged)]
        ).value
    assert (strided.layout, strided.shape) == ("nested", (2, -1, -1))
    assert list(strided.parts) == ["buffer", "sizes", "strides", "storage_offsets"]
    assert (jagged.layout, jagged.shape) == ("jagged", (2, -1, 3))
    assert jagged.parts["values"].shape == (6, 3)
    assert in_torch(jagged.parts["offsets"]).tolist() == [0, 2, 6]


def test_quantized_tensors_keep_their_quantizer():
    torch = pytest.importorskip("torch")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: quantization moves elsewhere
        whole = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 3, torch.qint8)
        rows = torch.quantize_per_channel(
            torch.ones(2, 2), torch.tensor([0.5, 1.0]), torch.tensor([0, 1]), 1, torch.quint8
        )
        first, second = saved([whole, rows]).value
    assert (first.dtype, first.quantizer) == ("qint8", ("per_tensor_affine", 0.5, 3))
    scheme, scales, zero_points, axis = second.quantizer
    assert (second.dtype, scheme, axis) == ("quint8", "per_channel_affine", 1)
    assert in_torch(scales).tolist() == [0.5, 1.0]
    assert in_torch(zero_points).tolist() == [0, 1]


def test_meta_tensors_have_no_bytes():
    torch = pytest.importorskip("torch")
    node = saved(torch.empty(3, 4, device="meta", dtype=torch.float16)).value
    assert (node.dtype, node.shape, node.stride) == ("float16", (3, 4), (4, 1))
    assert (node.storage.data, node.storage.device, node.storage.size_bytes) == (None, "meta", 24)


def test_small_things_of_torch():
    torch = pytest.importorskip("torch")
    outcome = saved([torch.Size([2, 3]), torch.float16, torch.device("cuda:1"), torch.strided])
    size, dtype, device, layout = outcome.value
    assert size == (2, 3)
    assert (dtype.module, dtype.name) == ("torch", "float16")
    assert (device.function.path, device.args) == ("torch.device", ("cuda", 1))
    assert isinstance(layout, Global)
    assert layout.path == "torch.strided"


def test_a_state_dict_keeps_its_metadata():
    torch = pytest.importorskip("torch")
    state_dict = saved(torch.nn.BatchNorm1d(2).state_dict()).value
    assert (state_dict.type, [key for key, _ in state_dict.pairs][:2]) == ("OrderedDict", ["weight", "bias"])
    assert state_dict.attributes.pairs[0][0] == "_metadata"
    assert state_dict.attributes.pairs[0][1].type == "OrderedDict"


def test_a_module_and_an_optimizer_of_torch_hold_no_odd_arguments():
    torch = pytest.importorskip("torch")
    net = torch.nn.TransformerEncoderLayer(8, 2, 16)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 3, 8)).sum().backward()
    optimizer.step()
    outcome = saved({"net": net, "optimizer": optimizer.state_dict(), "step": 1})
    assert outcome.findings == []
    module = outcome.value.pairs[0][1]
    assert isinstance(module, Module)
    real = net.state_dict()
    weight = module.modules["self_attn"].parameters["in_proj_weight"]
    assert weight.parameter
    assert torch.equal(in_torch(weight), real["self_attn.in_proj_weight"])


def test_the_stream_inside_a_plain_pickle_is_given_to_the_caller():
    torch = pytest.importorskip("torch")
    data = pickle.dumps(torch.arange(3.0), 2)
    record = run_program(data).value
    assert record.function.path == "torch._utils._rebuild_tensor_v2"
    assert record.args[0].function.path == "torch.storage._load_from_bytes"
    streams = []

    def nested(stream):
        streams.append(stream)
        return StorageRef(Storage("0", 12, None), "float32", 0, 3)

    outcome = run_program(data, nested=nested)
    assert isinstance(outcome.value, Tensor)
    assert outcome.value.shape == (3,)
    assert outcome.findings == []
    assert len(streams) == 1
    assert streams[0].startswith(b"\x80\x02\x8a\n")


# ---- torch, forms that it no longer writes

STORAGE = Storage("0", 48, None)
REF = StorageRef(STORAGE, "float32", 2, 12)


def meaning(path, *args, limits=DEFAULT_LIMITS):
    context = Context(limits, None)
    module, name = path.rsplit(".", 1)
    return call(Global(module, name), args, context), context.findings


def test_a_view_of_an_old_stream_adds_its_own_offset():
    node, _ = meaning("torch._utils._rebuild_tensor", REF, 1, (2,), (1,))
    assert (node.offset, node.dtype, node.storage) == (3, "float32", STORAGE)


def test_an_untyped_storage_is_counted_in_bytes():
    raw = StorageRef(STORAGE, "uint8", 8, 40)
    dtype = Global("torch", "uint16")
    node, _ = meaning("torch._utils._rebuild_tensor_v3", raw, 3, (2,), (1,), False, Map(), dtype)
    assert (node.offset, node.dtype) == (7, "uint16")
    odd, findings = meaning(
        "torch._utils._rebuild_tensor_v3", StorageRef(STORAGE, "uint8", 7, 40), 3, (2,), (1,), False, Map(), dtype
    )
    assert isinstance(odd, Record)
    assert len(findings) == 1


@pytest.mark.parametrize(
    "name", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor", "_rebuild_device_tensor_from_cpu_tensor"]
)
def test_a_tensor_that_came_from_another_device_says_which(name):
    data = Tensor(STORAGE, "float32", 0, (2,), (1,))
    node, _ = meaning(f"torch._utils.{name}", data, Global("torch", "bfloat16"), "xla:1", True)
    assert (node.storage.device, node.storage.data, node.requires_grad) == ("xla:1", None, True)
    assert node.dtype == "float32"  # what the bytes are; what the tensor was is an attribute
    assert node.attributes.pairs[0][1].path == "torch.bfloat16"
    assert (data.storage.device, data.attributes) == ("cpu", None)


def test_a_wrapper_subclass_has_an_outside_and_its_inner_tensors_as_attributes():
    inner = Tensor(STORAGE, "float32", 0, (2,), (1,))
    kind = Global("torch.distributed.tensor", "DTensor")
    outside = (kind, Global("torch", "float32"), (4,), (1,), 0, Global("torch", "strided"), "cuda:0", True)
    function = Global("torch._utils", "_rebuild_wrapper_subclass")
    node, findings = meaning(
        "torch._tensor._rebuild_from_type_v2", function, kind, outside, Map([("_local_tensor", inner)])
    )
    assert (node.shape, node.storage.data, node.storage.device) == ((4,), None, "cuda:0")
    assert node.attributes.pairs == [("__class__", kind), ("_local_tensor", inner)]
    assert findings == []


def test_tensors_and_variables_of_pytorch_0_3():
    prefix = b"ctorch\nFloatTensor\n)\x81(K\x00QK\x01(K\x02K\x02t(K\x02K\x01ttbq\x01"
    refs = {"persistent": lambda _: REF}
    tensor = run_program(prefix + b".", **refs).value
    assert (tensor.dtype, tensor.offset, tensor.shape, tensor.stride) == ("float32", 3, (2, 2), (2, 1))
    variable = run_program(prefix + b"0ctorch.autograd.variable\nVariable\nh\x01\x85R\x88\x89}\x87b.", **refs).value
    assert (variable.shape, variable.requires_grad, variable.parameter) == ((2, 2), True, False)
    parameter = run_program(prefix + b"0ctorch.nn.parameter\nParameter\nh\x01\x85R\x89\x89}\x87b.", **refs).value
    assert (parameter.shape, parameter.requires_grad, parameter.parameter) == ((2, 2), False, True)
    whole = run_program(prefix + b"0ctorch.autograd.variable\nVariable\nh\x01\x85R(h\x01N}\x88\x89tb.", **refs).value
    assert (whole.shape, whole.requires_grad) == ((2, 2), True)


def test_hooks_are_kept_where_there_are_any():
    hooks = Map([(1, Global("a", "hook"))])
    node, _ = meaning("torch._utils._rebuild_tensor_v2", REF, 0, (2,), (1,), False, hooks)
    assert node.attributes.pairs == [("_backward_hooks", hooks)]


WRONG = [
    ("_rebuild_tensor", ()),
    ("_rebuild_tensor", (None, 0, (2,), (1,))),
    ("_rebuild_tensor", (REF, -1, (2,), (1,))),
    ("_rebuild_tensor", (REF, True, (2,), (1,))),
    ("_rebuild_tensor", (REF, 2**63, (2,), (1,))),
    ("_rebuild_tensor", (REF, 0, (-2,), (1,))),
    ("_rebuild_tensor", (REF, 0, (2.0,), (1,))),
    ("_rebuild_tensor", (REF, 0, (2**63,), (1,))),
    ("_rebuild_tensor", (REF, 0, (2,), (-1,))),
    ("_rebuild_tensor", (REF, 0, (2,), (1, 1))),
    ("_rebuild_tensor", (REF, 0, 2, 1)),
    ("_rebuild_tensor", (REF, 0, (1,) * 65, (1,) * 65)),
    ("_rebuild_tensor_v2", (REF, 0, (2,), (1,))),
    ("_rebuild_tensor_v2", (REF, 0, (2,), (1,), 1, None)),
    ("_rebuild_tensor_v2", (REF, 0, (2,), (1,), False, None, 5)),
    ("_rebuild_tensor_v3", (REF, 0, (2,), (1,), False, None, "float32")),
    ("_rebuild_tensor_v3", (REF, 0, (2,), (1,), False, None, Global("torch", "float31"))),
    ("_rebuild_tensor_v3", (REF, 0, (2,), (1,), False, None, Global("evil", "float32"))),
    ("_rebuild_qtensor", (REF, 0, (2,), (1,), None, False, None)),
    ("_rebuild_qtensor", (REF, 0, (2,), (1,), (Global("torch", "per_channel_affine"), 1, 2, 0), False, None)),
    ("_rebuild_parameter", (5, True, None)),
    ("_rebuild_parameter", (Tensor(STORAGE, "float32", 0, (), ()), "yes", None)),
    ("_rebuild_sparse_tensor", (Global("torch", "sparse_coo"), (1, 2, 3))),
    ("_rebuild_sparse_tensor", (Global("torch", "sparse_xyz"), ())),
    ("_rebuild_sparse_tensor", ("sparse_coo", ())),
    ("_rebuild_nested_tensor", (1, 2, 3, 4)),
    ("_rebuild_meta_tensor_no_storage", (Global("torch", "float32"), (2,), (), False)),
    ("_rebuild_wrapper_subclass", (1, 2, 3)),
    ("_rebuild_device_tensor_from_numpy", (1, 2, 3, 4)),
]


@pytest.mark.parametrize(("name", "args"), WRONG)
def test_arguments_of_another_form_leave_the_record_and_a_finding(name, args):
    record, findings = meaning(f"torch._utils.{name}", *args)
    assert isinstance(record, Record)
    assert record.args == args
    (finding,) = findings
    assert (finding.code, finding.name, finding.severity) == ("RK-FILE-08", "odd-arguments", Severity.WARNING)
    assert finding.what.startswith(f"torch._utils.{name} would be called with arguments it does not take: ")


@pytest.mark.parametrize("known", sorted(MEANINGS), ids=".".join)
def test_every_meaning_survives_any_arguments(known):
    tensor = Tensor(STORAGE, "float32", 0, (2,), (1,))
    deep = ()
    for _ in range(100_000):
        deep = (deep,)
    values = [
        None, True, -1, 2**80, 0.5, "text", b"bytes", [], (), [1], ("a", "b"), Map(), Map([("values", 1)]), SetOf([]),
        REF, tensor, Global("torch", "float32"), Global("torch._utils", "_rebuild_tensor"),
        Record(Global("numpy", "dtype"), ("f4",)), Record(None, None), deep,
    ]  # fmt: skip
    for value in values:
        for count in range(9):
            context = Context(DEFAULT_LIMITS, None)
            call(Global(*known), (value,) * count, context)
        call(Global(*known), value, Context(DEFAULT_LIMITS, None))


@pytest.mark.parametrize("known", sorted(BUILDS), ids=".".join)
def test_every_state_that_has_a_meaning_survives_any_state(known):
    values = [
        b"K\x05",
        b"N",
        b"}",
        b")",
        b"]",
        b"(K\x01K\x02K\x03t",
        b"(K\x01)NK\x03K\x04t",
        b"(NNNNt",
        b"X\x01\0\0\0a",
    ]
    for value in values:
        program = b"c" + "\n".join(known).encode() + b"\n)R" + value + b"b."
        assert isinstance(run_program(program).value, Record)


def test_dimensions_are_bounded_by_the_limits():
    args = (REF, 0, (1, 1, 1), (1, 1, 1))
    assert isinstance(meaning("torch._utils._rebuild_tensor", *args)[0], Tensor)
    record, findings = meaning("torch._utils._rebuild_tensor", *args, limits=Limits(tensor_dims=2))
    assert isinstance(record, Record)
    assert len(findings) == 1


# ---- collections and builtins


@pytest.mark.parametrize("protocol", range(6))
def test_collections_are_maps_of_their_kind(protocol):
    value = [
        collections.OrderedDict([("b", 1), ("a", 2)]),
        collections.defaultdict(list, {"a": [1]}),
        collections.Counter("aab"),
    ]
    ordered, default, counter = run_program(pickle.dumps(value, protocol)).value
    assert (ordered.type, ordered.pairs) == ("OrderedDict", [("b", 1), ("a", 2)])
    assert (default.type, default.pairs) == ("defaultdict", [("a", [1])])
    assert default.attributes.pairs[0][0] == "default_factory"
    assert default.attributes.pairs[0][1].name == "list"
    assert (counter.type, counter.pairs) == ("Counter", [("a", 2), ("b", 1)])


@pytest.mark.parametrize("protocol", range(6))
def test_a_deque_stays_a_record_with_its_elements(protocol):
    record = run_program(pickle.dumps(collections.deque([1, 2], 5), protocol)).value
    assert record.function.path == "collections.deque"
    assert record.args == ((), 5)
    assert record.elements == [1, 2]


@pytest.mark.parametrize(
    ("path", "args", "value"),
    [
        ("builtins.list", ((1, 2),), [1, 2]),
        ("builtins.tuple", ([1, 2],), (1, 2)),
        ("builtins.complex", (1.0, 2), 1 + 2j),
        ("builtins.bytes", (), b""),
        ("__builtin__.bytes", ([1, 255],), b"\x01\xff"),
        ("__builtin__.bytearray", ("\xff", "latin-1"), b"\xff"),
        ("_codecs.encode", ("\xff\x00", "latin1"), b"\xff\x00"),
        ("torch.Size", ([1, 2],), (1, 2)),
        ("torch.Size", (), ()),
    ],
)
def test_builtins_are_plain_values(path, args, value):
    found, findings = meaning(path, *args)
    assert found == value
    assert type(found) is type(value)
    assert findings == []


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("_codecs.encode", ("a", "rot13")),
        ("_codecs.encode", ("€", "latin1")),
        ("builtins.bytes", (10**9,)),
        ("builtins.bytearray", ([256],)),
        ("builtins.complex", ("1",)),
        ("builtins.list", ("text",)),
        ("builtins.dict", ([(1, 2, 3)],)),
        ("collections.OrderedDict", (5,)),
        ("torch.Size", ((-1,),)),
    ],
)
def test_builtins_with_other_arguments_leave_a_record_and_a_finding(path, args):
    record, findings = meaning(path, *args)
    assert isinstance(record, Record)
    assert len(findings) == 1


def test_a_collection_is_a_copy_of_what_it_is_made_from():
    source = [1, 2]
    copy, _ = meaning("builtins.list", source)
    source.append(3)
    assert copy == [1, 2]
    pairs = Map([("a", 1)])
    other, _ = meaning("collections.OrderedDict", pairs)
    assert other.pairs == pairs.pairs
    assert other.pairs is not pairs.pairs


# ---- numpy


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"])
def test_numpy_arrays_are_tensors_over_their_bytes(dtype, protocol):
    numpy = pytest.importorskip("numpy")
    for array in (
        numpy.arange(6).astype(dtype).reshape(2, 3),
        numpy.asfortranarray(numpy.arange(6).astype(dtype).reshape(2, 3)),
        numpy.array(1, dtype),
        numpy.zeros((0, 2), dtype),
        numpy.arange(6).astype(numpy.dtype(dtype).newbyteorder(">")),
    ):
        node = run_program(pickle.dumps(array, protocol)).value
        assert isinstance(node, Tensor)
        assert node.attributes.pairs[0][1].path == "numpy.ndarray"
        raw = b"".join(node.storage.data.chunks())
        order = ">" if node.storage.byteorder == "big" else "<"
        flat = numpy.frombuffer(raw, numpy.dtype(DTYPES[node.dtype].name).newbyteorder(order))
        strides = [step * flat.itemsize for step in node.stride]
        assert node.shape == array.shape
        assert (numpy.lib.stride_tricks.as_strided(flat, node.shape, strides) == array).all()


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_scalars_are_numbers_where_python_has_them(protocol):
    numpy = pytest.importorskip("numpy")
    cases = [numpy.float64(0.1), numpy.float32(0.1), numpy.float16(0.5), numpy.int64(-5), numpy.uint64(2**64 - 1),
             numpy.bool_(True), numpy.complex64(1 + 2j)]  # fmt: skip
    found = run_program(pickle.dumps(cases, protocol)).value
    assert found == [case.item() for case in cases]
    assert [type(value) for value in found] == [type(case.item()) for case in cases]


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_values_without_a_torch_dtype_stay_records(protocol):
    numpy = pytest.importorskip("numpy")
    cases = [
        numpy.array(["ab"]),
        numpy.array([None]),
        numpy.zeros(2, "f4,i4"),
        numpy.longdouble(1),
        numpy.array([1], "M8[s]"),
    ]
    outcome = run_program(pickle.dumps(cases, protocol))
    assert all(isinstance(value, Record) for value in outcome.value)
    assert outcome.findings == []


def test_an_array_of_another_size_than_its_bytes_stays_a_record():
    numpy = pytest.importorskip("numpy")
    data = pickle.dumps(numpy.arange(3, dtype="i4"), 3)
    broken = data.replace(
        b"C\x0c\x00\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00", b"C\x08\x00\x00\x00\x00\x01\x00\x00\x00"
    )
    assert broken != data
    outcome = run_program(broken)
    assert isinstance(outcome.value, Record)
    assert outcome.findings[0].what.endswith("8 bytes for an array of another size")
