"""The TensorBoard helpers, each read back with TensorBoard's own reader."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import small_networks

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
np = pytest.importorskip("numpy")
from torch import nn

import rekindle as rk
from rekindle.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # protobuf and TensorBoard speak about their own future when they are imported
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter


@pytest.fixture
def log(tmp_path):
    """A writer, and a function that closes it and reads all back."""
    writer = SummaryWriter(str(tmp_path))

    def read() -> EventAccumulator:
        writer.close()
        everything = dict.fromkeys(("scalars", "images", "histograms", "tensors", "compressedHistograms"), 0)
        return EventAccumulator(str(tmp_path), size_guidance=everything).Reload()

    yield writer, read
    writer.close()


def picture_of(event) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        return np.asarray(image.convert("RGB"))


def test_histograms_of_weights_and_gradients(log):
    writer, read = log
    model = nn.DataParallel(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)))
    model.module[1].requires_grad_(False)
    for step in (1, 2):
        model(torch.ones(2, 3)).sum().backward()
        rk.tensorboard.histograms(writer, model, step)
    found = read()
    weights = [f"weights/{key}" for key in ("0.weight", "0.bias", "1.weight", "1.bias")]
    assert sorted(found.Tags()["histograms"]) == sorted([*weights, "gradients/0.weight", "gradients/0.bias"])
    one, two = found.Histograms("gradients/0.weight")
    assert (one.step, two.step) == (1, 2)
    values = model.module[0].weight.grad
    assert two.histogram_value.num == 12
    assert two.histogram_value.max == pytest.approx(values.max().item())
    assert two.histogram_value.sum == pytest.approx(values.sum().item(), rel=1e-5)


def test_values_that_are_not_finite_are_counted_and_half_precision_is_written(log):
    writer, read = log
    model = nn.Linear(2, 2).bfloat16()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
        model.bias.fill_(float("inf"))
    rk.tensorboard.histograms(writer, model, 5, gradients=False)
    found = read()
    assert found.Tags()["histograms"] == ["weights/weight"]
    assert found.Histograms("weights/weight")[0].histogram_value.num == 3
    assert found.Scalars("not_finite/weights/weight")[0].value == 1
    assert found.Scalars("not_finite/weights/bias")[0].value == 2


def test_only_some_histograms_and_learning_rates_by_name(log):
    writer, read = log
    model = small_networks.SmallResNet()
    optimizer = torch.optim.SGD([{"params": model.fc.parameters(), "lr": 0.5, "name": "head"}, {"params": []}], lr=0.1)
    rk.tensorboard.histograms(writer, model, 0, only="fc")
    rk.tensorboard.learning_rates(writer, optimizer, 0)
    found = read()
    assert sorted(found.Tags()["histograms"]) == ["weights/fc.bias", "weights/fc.weight"]
    assert found.Scalars("lr/head")[0].value == 0.5
    assert found.Scalars("lr/1")[0].value == pytest.approx(0.1)


def test_a_precision_recall_curve_for_each_class(log):
    from tensorboard.util.tensor_util import make_ndarray

    writer, read = log
    labels = torch.tensor([0, 0, 1, 2])
    scores = nn.functional.one_hot(torch.tensor([0, 1, 1, 2]), 3) * 9.0  # one of the first class taken for the second
    rk.tensorboard.pr_curves(writer, scores, labels, 7, classes=["ant", "bee", "cat"])
    found = read()
    assert sorted(found.Tags()["tensors"]) == ["pr/ant", "pr/bee", "pr/cat"]
    event = found.Tensors("pr/bee")[0]
    hits, false, right, missed, precision, recall = make_ndarray(event.tensor_proto)
    middle = len(hits) // 2
    assert event.step == 7
    assert (hits[middle], false[middle], right[middle], missed[middle]) == (1, 1, 2, 0)
    assert (precision[middle], recall[middle]) == (0.5, 1.0)


def test_an_embedding_with_labels_and_pictures(log, tmp_path):
    from PIL import Image

    writer, read = log
    vectors = torch.arange(12.0).reshape(4, 3)
    pictures = torch.zeros(4, 1, 5, 5)
    pictures[1] = 1
    rk.tensorboard.embeddings(writer, vectors, 3, labels=["a", "b", "c", "d"], pictures_BCHW=pictures, name="digits")
    read()
    folder = next(path.parent for path in tmp_path.rglob("tensors.tsv"))
    rows = [[float(cell) for cell in line.split("\t")] for line in (folder / "tensors.tsv").read_text().splitlines()]
    assert rows == vectors.tolist()
    assert (folder / "metadata.tsv").read_text().split() == ["a", "b", "c", "d"]
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (10, 10)
        assert [sprite.convert("L").getpixel(place) for place in ((0, 0), (7, 2), (2, 7))] == [0, 255, 0]
    assert "digits" in (tmp_path / "projector_config.pbtxt").read_text()


def test_a_text_keeps_its_lines(log):
    writer, read = log
    rk.tensorboard.text(writer, "markdown", "one\ntwo\r\n**three**", 0)
    rk.tensorboard.text(writer, "table", "a  b\n```\n1  2", 1, verbatim=True)
    found = read()

    def words(name: str) -> str:
        return found.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert words("markdown") == "one  \ntwo  \n**three**"
    assert words("table") == "    a  b\n    ```\n    1  2"
    # What TensorBoard's own page makes of it:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # html5lib speaks of its end
        from tensorboard.plugin_util import markdown_to_safe_html

    assert markdown_to_safe_html(words("markdown")).count("<br") == 2
    assert "a  b\n```\n1  2" in markdown_to_safe_html(words("table"))
    assert markdown_to_safe_html("one\ntwo").count("<br") == 0  # what the helper is for


def test_a_figure_at_every_step_without_pyplot_and_as_it_was(log):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    writer, read = log
    figure = Figure(figsize=(2, 1), dpi=50, facecolor="black")
    canvas = figure.canvas
    for step in range(12):
        figure.set_facecolor((step / 11, 0, 0))
        rk.tensorboard.figure(writer, "drawing", figure, step)
    assert figure.canvas is canvas
    events = read().Images("drawing")
    assert [event.step for event in events] == list(range(12))
    assert [int(picture_of(event)[0, 0, 0]) for event in events] == [round(255 * step / 11) for step in range(12)]
    assert picture_of(events[0]).shape == (50, 100, 3)


def test_pictures_are_turned_back_into_what_they_show(log):
    writer, read = log
    batch = torch.full((4, 3, 6, 5), 0.5)
    batch[:, 0] = 1.0
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    normal = (batch - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    rk.tensorboard.pictures(writer, "batch", normal, 2, mean=mean, std=std)
    rk.tensorboard.pictures(writer, "bytes", torch.full((1, 1, 4, 4), 200, dtype=torch.uint8), 2)
    found = read()
    shown = picture_of(found.Images("batch")[0])
    assert abs(shown[3, 3].astype(int) - [255, 127, 127]).max() <= 1
    assert picture_of(found.Images("bytes")[0])[1, 1].tolist() == [200, 200, 200]


def test_the_graph_has_the_modules_and_the_model_is_as_before(log, capfd):
    writer, read = log
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    rk.tensorboard.graph(writer, model, (2, 3, 8, 8))
    nodes = {node.op for node in graph_of(read()).node}
    assert {"aten::_convolution", "aten::batch_norm"} <= nodes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in model] == [True, True, False]
    assert capfd.readouterr() == ("", "")


def graph_of(found: EventAccumulator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return found.Graph()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda board, writer: board.graph(writer, nn.Linear(3, 2), (1, 4)), "Linear cannot be traced"),
        (lambda board, writer: board.graph(writer, nn.Linear(3, 2), {"input": (1, 3)}), "by their order"),
        (
            lambda board, writer: board.pr_curves(writer, torch.zeros(3, 2), torch.zeros(2), 0),
            r"scores \[3, 2\] and labels \[2\] do not belong together",
        ),
        (
            lambda board, writer: board.pr_curves(writer, torch.zeros(1, 2), torch.tensor([2]), 0),
            "outside of the classes 0 to 1: 2",
        ),
        (lambda board, writer: board.embeddings(writer, torch.zeros(3, 2), 0, labels=["a"]), "1 labels for 3 vectors"),
        (
            lambda board, writer: board.embeddings(writer, torch.zeros(1, 2), 0, pictures_BCHW=torch.zeros(1, 3, 4, 5)),
            "are not square",
        ),
        (lambda board, writer: board.pictures(writer, "x", torch.zeros(3, 4, 4), 0), "1 or 3 channels"),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_reason(log, capfd, call, words):
    with pytest.raises(ConfigError, match=words):
        call(rk.tensorboard, log[0])
    assert capfd.readouterr() == ("", "")


def test_the_writer_of_a_run_is_taken_as_well(tmp_path):
    with rk.Run(tmp_path / "run", seed=0, tensorboard=True) as run:
        model = nn.Linear(2, 2)
        run.track(model=model)
        rk.tensorboard.histograms(run.tensorboard, model, run.steps_done)
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert sorted(found.Tags()["histograms"]) == ["weights/bias", "weights/weight"]


def test_on_ranks_without_a_writer_nothing_is_done():
    board = rk.tensorboard
    board.histograms(None, nn.Linear(1, 1), 0)
    board.learning_rates(None, torch.optim.SGD([torch.ones(1)], lr=1.0), 0)
    board.text(None, "a", "b", 0)
    board.graph(None, nn.Linear(1, 1), (1, 1))
