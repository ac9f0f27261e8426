"""The networks of examples/fcn8s are the published ones, and take the published weights."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d, pad, relu  # noqa: E402

from densecrf_rnn import CRFRNN  # noqa: E402
from fcn8s import caffemodel, weights  # noqa: E402
from fcn8s.networks import (  # noqa: E402
    FCNCRF, MobileNetV2FCN, VGG16FCN, bilinear_kernel, parameter_count,
)
from fcn8s_files import bytes_field, caffe, caffe_layers, small  # noqa: E402

NETS = Path(__file__).parents[1] / "../shared/data/nets"
# voc-fcn8s as published: the outputs of its layers, and its rows and columns for 500 x 500.
PUBLISHED_SHAPES = {
    "conv1_1": (64, 698), "conv1_2": (64, 698), "conv2_2": (128, 349), "conv3_3": (256, 175),
    "conv4_3": (512, 88), "conv5_3": (512, 44), "fc6": (4096, 16), "fc7": (4096, 16),
    "score_fr": (21, 16), "upscore2": (21, 34), "score_pool4": (21, 44), "upscore_pool4": (21, 70),
    "score_pool3": (21, 88), "upscore8": (21, 568),
}
# Outputs, inputs, rows and columns of each layer's weights; biases of all but the last three.
PUBLISHED_WEIGHTS = (
    (64, 3, 3), (64, 64, 3), (128, 64, 3), (128, 128, 3), (256, 128, 3), (256, 256, 3),
    (256, 256, 3), (512, 256, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3), (512, 512, 3),
    (512, 512, 3), (4096, 512, 7), (4096, 4096, 1), (21, 4096, 1), (21, 512, 1), (21, 256, 1),
)
PUBLISHED_DECONVOLUTIONS = ((21, 21, 4), (21, 21, 4), (21, 21, 16))


# --- golden: the published net -------------------------------------------------------------------


def test_layers_have_the_published_shapes_for_500_x_500():
    with torch.device("meta"):  # shapes alone; nothing is computed
        net = VGG16FCN().eval()
    found = {}
    for name, module in net.named_modules():
        module.register_forward_hook(lambda m, i, out, name=name: found.update({name: out.shape}))
    out = net(torch.zeros(1, 3, 500, 500, device="meta"))
    assert out.shape == (1, 21, 500, 500)
    for name, (channels, size) in PUBLISHED_SHAPES.items():
        assert found[name] == (1, channels, size, size), name


def test_parameter_count_is_the_published_one():
    with torch.device("meta"):
        net = VGG16FCN()
    count = sum(o * i * k * k + o for o, i, k in PUBLISHED_WEIGHTS)
    count += sum(o * i * k * k for o, i, k in PUBLISHED_DECONVOLUTIONS)
    assert parameter_count(net) == count == 134_489_759  # 538 MB of float32, as the Caffe model


@pytest.mark.parametrize("size", [(40, 57), (1, 1), (224, 96)])
def test_graph_equals_its_functional_restatement(size):
    net = small().double()
    w = net.state_dict()
    image = torch.rand(2, 3, *size, dtype=torch.float64) * 255

    def conv(x, name, padding=0):
        return conv2d(x, w[name + ".weight"], w[name + ".bias"], padding=padding)

    mean = net.mean
    np.testing.assert_allclose(mean.flatten(), [104.00699, 116.66877, 122.67892], rtol=1e-6)
    x = pad(image[:, [2, 1, 0]] - mean, (99, 99, 99, 99))
    pools = []
    for block, count in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, count + 1):
            x = relu(conv(x, f"conv{block}_{i}", padding=1))
        x = max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    score = conv(relu(conv(relu(conv(x, "fc6")), "fc7")), "score_fr")
    up = conv_transpose2d(score, w["upscore2.weight"], stride=2)
    rows, columns = up.shape[2:]
    fused = up + conv(pools[3], "score_pool4")[:, :, 5 : 5 + rows, 5 : 5 + columns]
    up = conv_transpose2d(fused, w["upscore_pool4.weight"], stride=2)
    rows, columns = up.shape[2:]
    fused = up + conv(pools[2], "score_pool3")[:, :, 9 : 9 + rows, 9 : 9 + columns]
    up = conv_transpose2d(fused, w["upscore8.weight"], stride=8)
    wanted = up[:, :, 31 : 31 + size[0], 31 : 31 + size[1]]
    torch.testing.assert_close(net(image), wanted)
    assert wanted.std() > 0.1


@pytest.mark.parametrize("size", [4, 16, 32, 64, 3, 15])
def test_deconvolutions_interpolate_bilinearly(size):
    stride = (size + 1) // 2
    kernel = bilinear_kernel(size)
    out = conv_transpose2d(torch.ones(1, 1, 6, 6), kernel[None, None], stride=stride)
    inside = out[..., size - stride : -(size - stride), size - stride : -(size - stride)]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    torch.testing.assert_close(kernel, kernel.T.flip(0))
    for layer in (small().upscore2, MobileNetV2FCN(3).upscore8):
        assert not layer.weight.requires_grad


@pytest.mark.parametrize("stride, offset", [(32, 19), (16, 27)])
def test_coarser_stages_crop_as_published(stride, offset):
    net = small(stride=stride)
    assert net.OFFSETS[stride] == offset
    seen = {}
    last = getattr(net, "upscore" if stride == 32 else "upscore16")
    last.register_forward_hook(lambda m, i, out: seen.update(out=out))
    logits = net(torch.rand(1, 3, 50, 70) * 255)
    wanted = seen["out"][:, :, offset : offset + 50, offset : offset + 70]
    torch.testing.assert_close(logits, wanted)


def test_a_stage_that_starts_from_the_coarser_one_gives_its_scores_at_first(tmp_path):
    """The new score layers are 0, so FCN-16s starts as FCN-32s, but for the interpolation."""
    coarse = FCNCRF(small(stride=32))
    torch.save({"model": coarse.state_dict(), "step": 1}, tmp_path / "32.pt")
    torch.manual_seed(1)
    fine = FCNCRF(VGG16FCN(5, 16, width=32)).eval()
    report = weights.load(fine, tmp_path / "32.pt")
    assert set(report.left) == {"fcn.upscore2.weight", "fcn.score_pool4.weight",
                                "fcn.score_pool4.bias", "fcn.upscore16.weight"}
    assert report.unused == ("fcn.upscore.weight",)
    image = torch.rand(1, 3, 64, 64) * 255
    a, b = coarse(image), fine(image)
    # Interpolating twice is not once, so the curves differ by little.
    assert (a - b).abs().mean() < 0.1 * a.std()


def test_at_once_scales_pool3_and_pool4():
    plain, at_once = small(), small(at_once=True)
    image = torch.rand(1, 3, 40, 40) * 255
    scaled = plain.state_dict()
    scaled["score_pool3.weight"] = scaled["score_pool3.weight"] * 1e4
    scaled["score_pool4.weight"] = scaled["score_pool4.weight"] * 1e2
    before = plain(image)
    at_once.load_state_dict(scaled)
    torch.testing.assert_close(at_once(image), before, rtol=1e-4, atol=1e-4)


# --- MobileNetV2 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (33, 64), (97, 31), (64, 65)])
def test_mobilenet_gives_logits_for_any_size(size):
    net = MobileNetV2FCN(4).eval()
    assert net(torch.rand(2, 3, *size) * 255).shape == (2, 4, *size)


def test_mobilenet_scores_lie_over_the_pixels_they_are_of():
    """A score at row i of stride 8 is that of pixel 8 i, between them it is interpolated."""
    net = MobileNetV2FCN(1)
    score = torch.arange(5.0)[:, None].expand(5, 7)[None, None]
    logits = net.enlarge(net.upscore8, score, (36, 50))[0, 0]
    rows = torch.arange(36.0) / 8
    torch.testing.assert_close(logits[:, 3], rows.clamp(max=4))


def test_stored_lower_features_give_the_same_logits():
    net = MobileNetV2FCN(3).eval()
    image = torch.rand(1, 3, 50, 60) * 255
    torch.testing.assert_close(net(image, net.lower(image)), net(image))
    net(image).sum().backward()
    frozen = [n for n, p in net.named_parameters() if p.grad is None]
    assert "stem.weight" in frozen and "blocks.12.project.weight" in frozen
    assert "skip3.weight" not in frozen and "blocks.13.dw.weight" not in frozen


@pytest.mark.skipif(not NETS.exists(), reason="the pretrained nets are not here")
def test_mobilenet_of_imagenet_fills_all_but_the_score_layers():
    model = FCNCRF(MobileNetV2FCN(4))
    report = weights.load(model, NETS / "mobilenet_v2_imagenet_float.npz")
    assert {name.split(".")[0] for name in report.left} == {
        "score_fr", "score_pool3", "score_pool4", "upscore2", "upscore_pool4", "upscore8"}
    assert report.unused == ("classifier.weight", "classifier.bias")
    torch.testing.assert_close(model.fcn.skip3.weight, model.fcn.blocks[6].expand.weight)


# --- weights from elsewhere ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["new", "old", "double"])
def test_caffemodel_is_read_as_it_was_written(tmp_path, kind):
    rng = np.random.default_rng(0)
    layers = {"conv": [rng.normal(size=(3, 2, 5, 1)), rng.normal(size=300)], "relu": []}
    (tmp_path / "net.caffemodel").write_bytes(caffe(layers, kind))
    read = caffemodel.read(tmp_path / "net.caffemodel")
    assert list(read) == ["conv"]
    for found, wanted in zip(read["conv"], layers["conv"], strict=True):
        np.testing.assert_array_equal(found.ravel(), wanted.astype(np.float32).ravel())
    assert read["conv"][0].shape == (3, 2, 5, 1)


def test_caffemodel_written_by_protobuf_is_read(tmp_path):
    """The library of the format itself, told the fields of caffe.proto."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", package="caffe_test")
    kinds = file.message_type.add().field.add()
    del file.message_type[:]
    for name, fields in {
        "Shape": [("dim", 1, 3, kinds.TYPE_INT64, None)],
        "Blob": [("data", 5, 3, kinds.TYPE_FLOAT, None), ("shape", 7, 1, 11, "Shape")],
        "Layer": [("name", 1, 1, kinds.TYPE_STRING, None), ("blobs", 7, 3, 11, "Blob")],
        "Net": [("name", 1, 1, kinds.TYPE_STRING, None), ("layer", 100, 3, 11, "Layer")],
    }.items():
        message = file.message_type.add(name=name)
        for field, place, label, kind, of in fields:
            added = message.field.add(name=field, number=place, label=label, type=kind)
            if of:
                added.type_name = f".caffe_test.{of}"
            if label == 3 and of is None:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_test.Net"))(name="x")
    layer = net.layer.add(name="fc6")
    array = np.random.default_rng(0).normal(size=(7, 41)).astype(np.float32)
    layer.blobs.add(data=array.ravel().tolist()).shape.dim.extend(array.shape)
    (tmp_path / "net.caffemodel").write_bytes(net.SerializeToString())
    np.testing.assert_array_equal(caffemodel.read(tmp_path / "net.caffemodel")["fc6"][0], array)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"\xff" * 20, lambda b: b"",
                                    lambda b: bytes_field(100, bytes_field(1, b"x") + bytes_field(
                                        7, bytes_field(5, b"123")))])
def test_damaged_caffemodel_is_refused_in_a_sentence(tmp_path, damage):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(damage(caffe({"conv": [np.ones((2, 3))]})))
    with pytest.raises(ValueError, match="net.caffemodel (cannot be read|holds no layer)"):
        caffemodel.read(path)


@pytest.mark.parametrize("old_names", [False, True])
def test_published_caffe_model_gives_its_function(tmp_path, old_names):
    net = small()
    rng = np.random.default_rng(0)
    crf = [np.eye(5) * 3, np.eye(5) * 5, rng.normal(size=(5, 5))] if old_names else None
    (tmp_path / "fcn.caffemodel").write_bytes(caffe(caffe_layers(net, crf, old_names)))
    torch.manual_seed(9)
    model = FCNCRF(VGG16FCN(5, width=32), CRFRNN(5)).eval()
    report = weights.load(model, tmp_path / "fcn.caffemodel")
    assert not report.unused
    assert report.left == (() if old_names else ("crf.kernel_weights", "crf.compatibility"))
    image = torch.rand(1, 3, 30, 40) * 255
    torch.testing.assert_close(model.fcn(image), net(image))
    if crf is not None:
        np.testing.assert_allclose(model.crf.compatibility.detach(), crf[2], rtol=1e-6)
        headless = weights.load(FCNCRF(VGG16FCN(5, width=32)), tmp_path / "fcn.caffemodel")
        assert "in it but unused: its CRF, for this model has none" in str(headless)


def test_vgg_of_the_caffe_model_zoo_fills_fc6_from_its_matrix(tmp_path):
    net = small()
    layers = caffe_layers(net)
    layers["fc6"][0] = layers["fc6"][0].reshape(1, 1, 128, -1)
    layers = {k: v for k, v in layers.items() if "score" not in k}
    layers["fc8"] = [np.zeros((1, 1, 1000, 128)), np.zeros(1000)]
    (tmp_path / "vgg.caffemodel").write_bytes(caffe(layers))
    model = FCNCRF(VGG16FCN(5, width=32))
    report = weights.load(model, tmp_path / "vgg.caffemodel")
    torch.testing.assert_close(model.fcn.fc6.weight, net.fc6.weight)
    assert report.unused == ("fc8.weight", "fc8.bias")


def test_checkpoint_of_crfasrnn_pytorch_gives_its_function(tmp_path):
    """Its upscore2 has a bias, ours has none: it goes into the layer whose scores are added."""
    net = small()
    state = net.state_dict()
    bias = torch.randn(5)
    eye = torch.eye(5)
    state |= {"upscore2.bias": bias, "crfrnn.spatial_ker_weights": 2 * eye,
              "crfrnn.bilateral_ker_weights": 4 * eye, "crfrnn.compatibility_matrix": eye}
    torch.save(state, tmp_path / "crfasrnn.pth")
    model = FCNCRF(VGG16FCN(5, width=32), CRFRNN(5)).eval()
    report = weights.load(model, tmp_path / "crfasrnn.pth")
    assert {"crf.kernel_weights", "crf.compatibility"} < set(report.loaded)
    headless = weights.load(FCNCRF(VGG16FCN(5, width=32)), tmp_path / "crfasrnn.pth")
    assert headless.unused == ("its CRF, for this model has none",)
    image = torch.rand(1, 3, 30, 40) * 255
    net.upscore2.bias = torch.nn.Parameter(bias)
    torch.testing.assert_close(model.fcn(image), net(image), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.crf.compatibility, -eye)
    torch.testing.assert_close(model.crf.kernel_weights[1], 2 * torch.ones(5))


def test_vgg_of_torchvision_gives_its_features(tmp_path):
    """The layout of torchvision.models.vgg16: convolutions between ReLUs and maxima."""
    state, layer, before = {}, 0, 3
    torch.manual_seed(0)
    for block, count in enumerate((2, 2, 3, 3, 3)):
        outputs = 2 * 2 ** min(block, 3)
        for _ in range(count):
            state[f"features.{layer}.weight"] = torch.randn(outputs, before, 3, 3) / before
            state[f"features.{layer}.bias"] = torch.randn(outputs)
            before, layer = outputs, layer + 2
        layer += 1
    fc = 4096 // 32
    state |= {"classifier.0.weight": torch.randn(fc, before * 49), "classifier.0.bias":
              torch.randn(fc), "classifier.3.weight": torch.randn(fc, fc), "classifier.3.bias":
              torch.randn(fc), "classifier.6.weight": torch.randn(1000, fc)}
    torch.save(state, tmp_path / "vgg16.pth")
    model = FCNCRF(VGG16FCN(5, width=32)).eval()
    report = weights.load(model, tmp_path / "vgg16.pth")
    assert {name.split(".")[1] for name in report.loaded} == {"weight", "bias"}
    image = torch.rand(1, 3, 40, 40) * 255
    mean, std = (torch.tensor(x)[:, None, None]
                 for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    wanted = conv2d((image / 255 - mean) / std, state["features.0.weight"],
                    state["features.0.bias"])  # no padding: the border is said to differ
    found = model.fcn.conv1_1(image.flip(1) - model.fcn.mean)[:, :, 100:-100, 100:-100]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.fcn.fc6.weight.flatten(1), state["classifier.0.weight"])


def test_mobilenet_of_torchvision_gives_its_features(tmp_path):
    """The layout of torchvision.models.mobilenet_v2: each convolution followed by a batch norm."""
    torch.manual_seed(0)
    own = FCNCRF(MobileNetV2FCN(3)).eval()
    state = {}

    def add(convolution, norm, like):
        weight = like.weight
        kernel = torch.randn_like(weight) / weight[0].numel() ** 0.5
        state[f"features.{convolution}.weight"] = kernel
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"features.{norm}.{part}"] = torch.rand(len(weight)) + 0.5

    add("0.0", "0.1", own.fcn.stem)
    add("18.0", "18.1", own.fcn.conv_last)
    for k, block in enumerate(own.fcn.blocks, 1):
        start = 0
        if block.expand is not None:
            add(f"{k}.conv.0.0", f"{k}.conv.0.1", block.expand)
            start = 1
        add(f"{k}.conv.{start}.0", f"{k}.conv.{start}.1", block.dw)
        add(f"{k}.conv.{start + 1}", f"{k}.conv.{start + 2}", block.project)
    torch.save(state, tmp_path / "mobilenet_v2.pth")
    report = weights.load(own, tmp_path / "mobilenet_v2.pth")
    assert all(name.startswith(("score", "upscore")) for name in report.left)
    assert not report.unused

    def normed(x, convolution, norm, **options):
        w = {p: state[f"features.{norm}.{p}"] for p in
             ("running_mean", "running_var", "weight", "bias")}
        x = conv2d(x, state[f"features.{convolution}.weight"], **options)
        return torch.nn.functional.batch_norm(x, **w)

    image = torch.rand(1, 3, 21, 21) * 255
    mean, std = (torch.tensor(x)[:, None, None]
                 for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    wanted = normed((image / 255 - mean) / std, "0.0", "0.1", stride=2, padding=1)
    found = own.fcn.stem((image - 128) / 128)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1], rtol=1e-4,
                               atol=1e-4)  # the border is said to differ
    for k, channels, groups in ((1, 16, 96), (5, 32, 192)):  # one that strides, one that adds
        x = torch.randn(1, channels, 9, 9)
        y = normed(x, f"{k + 1}.conv.0.0", f"{k + 1}.conv.0.1").clamp(0, 6)
        y = normed(y, f"{k + 1}.conv.1.0", f"{k + 1}.conv.1.1", stride=2 if k == 1 else 1,
                   padding=1, groups=groups).clamp(0, 6)
        y = normed(y, f"{k + 1}.conv.2", f"{k + 1}.conv.3")
        wanted = y if k == 1 else x + y
        torch.testing.assert_close(own.fcn.blocks[k](x), wanted, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="nothing in .* is known here .it holds encoder.weight"):
        weights.load(FCNCRF(VGG16FCN(5, width=32)), tmp_path / "other.pth")
    (tmp_path / "fcn.caffemodel").write_bytes(caffe(caffe_layers(small())))
    with pytest.raises(ValueError, match="make the model with backbone='vgg16'"):
        weights.load(FCNCRF(MobileNetV2FCN(5)), tmp_path / "fcn.caffemodel")


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: MobileNetV2FCN(3), lambda: MobileNetV2FCN(3, 32),
                                  lambda: VGG16FCN(3, width=64)], ids=["8", "32", "vgg"])
def test_windows_are_cut_from_the_whole_and_so_are_their_gradients(make):
    """Also those that touch the border, and of a single pixel."""
    torch.manual_seed(0)
    fcn = make().double().eval()
    for layer in (m for n, m in fcn.named_children() if n.startswith("score")):
        torch.nn.init.normal_(layer.weight)
    image = 255 * torch.rand(3, 3, 53, 70, dtype=torch.float64)
    for rows, columns in ((17, 24), (53, 70), (1, 1)):
        windows = [(0, 0, rows, columns), (53 - rows, 70 - columns, rows, columns),
                   (min(9, 53 - rows), min(15, 70 - columns), rows, columns)]
        whole = torch.stack([x[:, r : r + h, c : c + w] for x, (r, c, h, w)
                             in zip(fcn(image), windows, strict=True)])
        found = fcn(image, windows=windows)
        torch.testing.assert_close(found, whole)
        cotangent = torch.randn_like(found)
        learned = [fcn.score_fr.weight, *(p for n, p in fcn.named_parameters()
                                          if n.startswith("score_pool") and n.endswith("weight"))]
        for a, b in zip(torch.autograd.grad(found, learned, cotangent),
                        torch.autograd.grad(whole, learned, cotangent), strict=True):
            torch.testing.assert_close(a, b)
