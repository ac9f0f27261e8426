"""save_pretrained, from_pretrained and push_to_hub."""

import json
import os
import subprocess
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")

import nn_problems as make  # noqa: E402
from processes import environment  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, kernels  # noqa: E402
from densecrf_rnn.nn import Segmenter  # noqa: E402


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("safetensors")
    found = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield found


def perturbed(crf):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += 0.3 * torch.rand(parameter.shape, generator=generator)
    return crf


@pytest.mark.parametrize("options", [
    {}, {"params": make.small_params(theta_beta=(7, 8, 9)), "iterations": 2, "update": "relu"},
    {"kernels": [kernels.Kernel(3.0, (4.0, 5.0, 6.0)), kernels.Spatial(2.0)]},
    {"multilabel": True, "kernel_weights": "scalar"}, {"trainable_bandwidths": True},
])
def test_a_head_is_saved_and_made_again_with_its_settings(hub, options, tmp_path):
    crf = perturbed(CRFRNN(3, **options))
    crf.save_pretrained(tmp_path / "head")
    other = CRFRNN.from_pretrained(tmp_path / "head")
    assert repr(other) == repr(crf) and not other.training
    logits, image = make.problem(0, 5, 6, dtype=torch.float32)
    assert torch.equal(other(logits, image), crf.eval()(logits, image))
    assert json.loads((tmp_path / "head" / "config.json").read_text())["num_classes"] == 3


def test_a_wrapped_network_is_made_again_with_a_backbone(hub, tmp_path):
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, mean=(0.1, 0.2, 0.3), std=0.5, scale=100,
                        params=make.small_params())
    perturbed(model).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="backbone is not given.*from_pretrained.path, backbone="):
        Segmenter.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="this is no head; load a wrapped model by nn.S"):
        CRFRNN.from_pretrained(tmp_path)
    model.crf.save_pretrained(tmp_path / "head")
    with pytest.raises(TypeError, match="holds no wrapped model.*CRFRNN.from_pretrained"):
        Segmenter.from_pretrained(tmp_path / "head", backbone=torch.nn.Conv2d(3, 2, 1))
    other = Segmenter.from_pretrained(tmp_path, backbone=torch.nn.Conv2d(3, 2, 1))
    image = make.problem(0, 5, 6, dtype=torch.float32)[1] / 255
    assert torch.equal(other(image), model.eval()(image))
    model.crf = torch.nn.Identity()
    with pytest.raises(TypeError, match="crf is Identity, whose settings are unknown"):
        model.save_pretrained(tmp_path)


def test_a_model_that_returns_mappings_does_so_again(hub, tmp_path):
    model = CRFRNN.wrap(torch.nn.Conv2d(3, 2, 1), 2, params=make.small_params(), returns="same")
    model.save_pretrained(tmp_path)
    network = torch.nn.Conv2d(3, 2, 1)
    assert Segmenter.from_pretrained(tmp_path, backbone=network).returns == "same"
    other = Segmenter.from_pretrained(tmp_path, backbone=network, returns="logits")
    assert other.returns == "logits"


def test_an_argument_replaces_a_saved_setting_and_is_noticed(hub, tmp_path):
    CRFRNN(3).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="saved with theta_beta=3.0, but this CRFRNN has theta_b"):
        crf = CRFRNN.from_pretrained(tmp_path, params=CRFParams(theta_beta=13))
    assert crf.params.theta_beta == 13


def test_pushing_uploads_what_is_saved(hub, monkeypatch, tmp_path):
    seen = {}

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, folder_path, repo_id, **options):
            seen[repo_id] = sorted(os.listdir(folder_path))

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    CRFRNN(3).push_to_hub("someone/head")
    assert seen == {"someone/head": ["README.md", "config.json", "model.safetensors"]}
    assert CRFRNN(3)._hub_mixin_config  # made by the mixin, and not what is saved


def test_names_of_the_hub_are_downloaded(hub, monkeypatch, tmp_path):
    crf = perturbed(CRFRNN(3, iterations=2))
    crf.save_pretrained(tmp_path)
    asked = []

    def download(repo_id="", filename="", **options):
        asked.append((repo_id, filename, options["revision"]))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    other = CRFRNN.from_pretrained("someone/head", revision="v1")
    assert repr(other) == repr(crf)
    assert asked == [("someone/head", name, "v1") for name in ("config.json", "model.safetensors")]


def test_without_huggingface_hub_the_methods_say_what_to_install():
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from densecrf_rnn import CRFRNN\n"
        "crf = CRFRNN(3)\n"
        "for call in (crf.save_pretrained, crf.push_to_hub, CRFRNN.from_pretrained):\n"
        "    try: call('name')\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True,
                          text=True, timeout=180)  # fmt: skip
    assert done.stdout.splitlines() == [
        f"{name} needs huggingface_hub, which is not installed; pip install 'densecrf-rnn[hub]'"
        for name in ("save_pretrained", "push_to_hub", "from_pretrained")
    ], done.stderr
