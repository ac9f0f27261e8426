"""Models of transformers: outputs, Trainer, pipeline, saving and loading."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("transformers", exc_type=Exception)

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from transformers.modeling_outputs import SemanticSegmenterOutput  # noqa: E402

from segmentation import IMAGENET, LABELS, check, squares  # noqa: E402
from densecrf_rnn import CRFParams, CRFRNN, unaries  # noqa: E402
from densecrf_rnn.compat.transformers import CRFForSemanticSegmentation  # noqa: E402

PARAMS = CRFParams(theta_alpha=20, theta_beta=(13, 13, 13), w_bilateral=2)


def segformer(**options):
    """A small SegFormer, whose logits are a quarter of the image."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16],
        patch_sizes=[7, 3], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=16, **{"num_labels": LABELS, **options},
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def processor(**options):
    return transformers.SegformerImageProcessor(size={"height": 32, "width": 32}, **options)


def examples(count=4, size=(32, 32)):
    """Items of a data set, as an image processor makes them."""
    made = processor()
    found = []
    for image, labels in squares(count, size):
        picture = np.uint8(image.movedim(0, -1) * 255)
        values = made(picture, labels.numpy(), return_tensors="pt")
        found.append({"pixel_values": values["pixel_values"][0], "labels": values["labels"][0]})
    return found


def queries(name):
    """A small model that returns class and mask queries, and its other arguments."""
    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = transformers.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=stages
    )
    width = dict.fromkeys(
        ("encoder_feedforward_dim", "dim_feedforward", "hidden_dim"), 32
    ) | {"backbone_config": swin, "num_queries": 5, "num_labels": LABELS, "num_attention_heads": 2,
         "encoder_layers": 1, "decoder_layers": 2}  # fmt: skip
    if name == "Mask2FormerForUniversalSegmentation":
        config = transformers.Mask2FormerConfig(**width, feature_size=32, mask_feature_size=32)
        return transformers.Mask2FormerForUniversalSegmentation(config), {}
    if name == "OneFormerForUniversalSegmentation":
        config = transformers.OneFormerConfig(
            **width, conv_dim=32, mask_dim=32, query_dec_layers=1, text_encoder_width=32,
            text_encoder_num_layers=1, task_seq_len=7, text_encoder_context_length=7,
        )  # fmt: skip
        model = transformers.OneFormerForUniversalSegmentation(config)
        return model, {"task_inputs": torch.zeros(2, 7, dtype=torch.long)}
    decoder = transformers.DetrConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=5,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=swin, decoder_config=decoder,
        num_labels=LABELS,
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config), {}


OF_QUERIES = ("Mask2FormerForUniversalSegmentation", "MaskFormerForInstanceSegmentation",
              "OneFormerForUniversalSegmentation")  # fmt: skip


def test_wrap_takes_segformer_of_hugging_face():
    backbone = segformer()
    # your code
    model = CRFRNN.wrap(backbone, LABELS, **IMAGENET)
    # end
    outputs = check(model, torch.randn(2, 3, 35, 42))
    assert outputs.logits.shape[2:] == (9, 11)  # a quarter of the image


def test_the_output_is_the_network_s_with_refined_logits_and_their_loss():
    network, image = segformer(), torch.randn(2, 3, 32, 40)
    labels = torch.randint(0, LABELS, (2, 32, 40))
    labels[:, :3] = 255
    model = CRFForSemanticSegmentation.wrap(network, processor(), params=PARAMS).eval()
    wanted = CRFRNN.wrap(network, LABELS, **IMAGENET, params=PARAMS).eval()(image)
    found = model(pixel_values=image, labels=labels, output_hidden_states=True)
    assert type(found) is SemanticSegmenterOutput and list(found)[:2] == ["loss", "logits"]
    assert torch.equal(found.logits, wanted) and len(found.hidden_states) == 2
    loss = torch.nn.functional.cross_entropy(wanted[:, :, 3:], labels[:, 3:])
    torch.testing.assert_close(found.loss, loss)
    assert model(image).loss is None
    assert isinstance(model(image, labels, return_dict=False), tuple)


@pytest.mark.parametrize("options, labels", [({"num_labels": 1}, 1), ({}, LABELS)])
def test_one_label_and_maps_that_overlap_have_a_binary_loss(options, labels):
    overlap = {"multilabel": True} if labels > 1 else {}
    model = CRFForSemanticSegmentation.wrap(segformer(**options), params=PARAMS, **overlap)
    target = torch.randint(0, 2, (2, labels, 32, 32))
    given = target if labels > 1 else target[:, 0]
    found = model(torch.randn(2, 3, 32, 32), given)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(found.logits, target.float())
    torch.testing.assert_close(found.loss, wanted)
    given[..., :3] = 255  # is ignored
    ignoring = model(torch.zeros(2, 3, 32, 32), given)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        ignoring.logits[..., 3:], target[..., 3:].float()
    )
    torch.testing.assert_close(ignoring.loss, wanted)


def test_the_processor_says_what_the_head_sees():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8).numpy()
    for options in ({}, {"rescale_factor": 1 / 127.5}, {"image_mean": [0.1, 0.2, 0.3]}):
        made = transformers.SegformerImageProcessor(do_resize=False, **options)
        pixels = made(image, input_data_format="channels_first", return_tensors="pt")
        model = CRFForSemanticSegmentation.wrap(segformer(), made, params=PARAMS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seen = model.segmenter._guide(pixels["pixel_values"])[0]
        torch.testing.assert_close(seen, torch.from_numpy(image).float(), rtol=0, atol=1e-3)


def test_pixels_outside_the_pixel_mask_are_excluded():
    model = CRFForSemanticSegmentation.wrap(segformer(), params=PARAMS).eval()
    image = torch.randn(1, 3, 32, 32)
    mask = torch.ones(1, 32, 32, dtype=torch.long)
    mask[:, :, 20:] = 0
    with torch.no_grad():
        coarse = model.segmenter.backbone(image).logits
        found = model(image, pixel_mask=mask).logits
        assert not torch.equal(found, model(image).logits)
    size = {"size": (32, 32), "mode": "bilinear"}
    before = torch.nn.functional.interpolate(coarse, **size)
    assert torch.equal(found[..., 20:], before[..., 20:])


def test_trainer_trains_saves_and_resumes(tmp_path):
    network, train = segformer(), examples()
    # your code
    model = CRFForSemanticSegmentation.wrap(network, processor(), params=PARAMS)
    # end
    arguments = transformers.TrainingArguments(
        tmp_path / "runs", max_steps=3, per_device_train_batch_size=2, learning_rate=1e-3,
        save_steps=3, eval_strategy="steps", eval_steps=3, report_to=[], use_cpu=True,
        logging_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=train, eval_dataset=train,
        compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(1) == p.label_ids).mean()},
        optimizers=(torch.optim.AdamW(model.parameter_groups(1e-3)), None),
    )  # fmt: skip
    before = model.segmenter.crf.kernel_weights.detach().clone()
    trainer.train()
    logged = trainer.state.log_history
    assert [entry["step"] for entry in logged if "loss" in entry] == [1, 2, 3]
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in logged if "eval_loss" in entry)
    assert any("eval_loss" in entry for entry in logged)
    assert (model.segmenter.crf.kernel_weights != before).all()
    after = model.segmenter.crf.kernel_weights.detach().clone()
    again = CRFForSemanticSegmentation.wrap(segformer(), processor(), params=PARAMS)
    arguments.max_steps = 4
    resumed = transformers.Trainer(
        again, arguments, train_dataset=train, eval_dataset=train,
        optimizers=(torch.optim.AdamW(again.parameter_groups(1e-3)), None),
    )  # fmt: skip
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    moved = (again.segmenter.crf.kernel_weights - after).abs()
    assert (0 < moved).all() and (moved < 0.02).all()  # one step of 0.01 from the checkpoint
    back = CRFForSemanticSegmentation.from_pretrained(tmp_path / "runs" / "checkpoint-3")
    image = train[0]["pixel_values"][None]
    with torch.no_grad():
        assert torch.equal(back.eval()(image).logits, model.eval()(image).logits)


def test_trainer_accumulates_the_gradient_of_one_large_batch(tmp_path):
    norms = {}
    for count in (1, 4):
        torch.manual_seed(0)
        network = segformer()
        for module in network.modules():  # nothing random, nothing that depends on the batch
            if isinstance(module, (torch.nn.Dropout, torch.nn.BatchNorm2d)):
                module.train = lambda mode=True, module=module: module
                module.training = False
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
        model = CRFForSemanticSegmentation.wrap(network, processor(), params=PARAMS)
        arguments = transformers.TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=4 // count,
            gradient_accumulation_steps=count, max_grad_norm=0.0, report_to=[], use_cpu=True,
            save_strategy="no", logging_steps=1,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, arguments, train_dataset=[examples()[i % 2] for i in range(4)],
            optimizers=(torch.optim.SGD(model.parameters(), lr=1e-3), None),
        )  # fmt: skip
        before = [p.detach().clone() for p in model.parameters()]
        trainer.train()
        moved = [(p.detach() - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
        loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        norms[count] = torch.stack([*moved, torch.tensor(loss)])
    torch.testing.assert_close(norms[4], norms[1], rtol=1e-3, atol=1e-7)


def test_a_processor_that_only_rescales_says_the_range_of_the_pixels():
    for factor, wanted in ((1 / 255, 1.0), (1 / 127.5, 0.5)):
        only = transformers.SegformerImageProcessor(do_normalize=False, rescale_factor=factor)
        model = CRFForSemanticSegmentation.wrap(segformer(), only, params=PARAMS)
        settings = model.segmenter.settings()
        assert np.allclose(settings["std"], wanted) and np.allclose(settings["mean"], 0)


def test_networks_that_can_recompute_activations_do_so_under_a_head():
    network = segformer()
    model = CRFForSemanticSegmentation.wrap(network, params=PARAMS)
    image, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    model.eval()(image, labels).loss.backward()  # without random dropout
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.train()
    model.gradient_checkpointing_enable()
    for module in model.modules():
        if not hasattr(module, "gradient_checkpointing"):
            module.eval()
    model.segmenter.crf.eval()
    model(image, labels).loss.backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("auto", [False, True])
def test_models_are_saved_and_loaded_with_head_and_settings(auto, tmp_path):
    model = CRFForSemanticSegmentation.wrap(
        segformer(), processor(), params=PARAMS, iterations=3, trainable_bandwidths=True
    ).eval()
    with torch.no_grad():
        for parameter in model.segmenter.crf.parameters():
            parameter.add_(0.3)
    # your code
    model.save_pretrained(tmp_path)
    # end
    made = transformers.AutoModelForSemanticSegmentation if auto else CRFForSemanticSegmentation
    back = made.from_pretrained(tmp_path).eval()
    assert type(back) is CRFForSemanticSegmentation
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back(image).logits, model(image).logits)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert back.segmenter.crf.params == PARAMS and back.segmenter.crf.iterations == 3
    assert torch.equal(back.segmenter.mean, torch.tensor(IMAGENET["mean"]))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "densecrf-rnn"


def test_a_pipeline_runs_a_saved_model(tmp_path):
    model = CRFForSemanticSegmentation.wrap(segformer(), processor(), params=PARAMS)
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    picture = Image.fromarray(np.uint8(squares(1, (50, 60))[0][0].movedim(0, -1) * 255))
    # your code
    segment = transformers.pipeline("image-segmentation", model=str(tmp_path))
    # end
    found = segment(picture)
    assert found and all(one["mask"].size == (60, 50) for one in found)
    total = sum(np.asarray(one["mask"], int) for one in found)
    assert (total == 255).all()  # every pixel has one label


@pytest.mark.parametrize("name", OF_QUERIES)
def test_models_with_queries_are_refined_trained_saved_and_loaded(name, tmp_path):
    network, others = queries(name)
    # your code
    model = CRFForSemanticSegmentation.wrap(network, params=PARAMS)
    # end
    image = torch.randn(2, 3, 64, 64)
    found = model(image, torch.zeros(2, 64, 64, dtype=torch.long), **others)
    assert type(found) is SemanticSegmenterOutput
    assert found.logits.shape == (2, LABELS, 64, 64)
    found.loss.backward()
    assert (model.segmenter.crf.kernel_weights.grad != 0).any()
    assert sum((p.grad != 0).any() for p in network.parameters() if p.grad is not None) > 20
    model.save_pretrained(tmp_path)
    back = CRFForSemanticSegmentation.from_pretrained(tmp_path)
    with torch.no_grad():
        one, other = (m.eval()(image, **others).logits for m in (back, model))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", OF_QUERIES)
def test_logits_of_queries_have_the_argmax_of_post_processing(name):
    network, others = queries(name)
    with torch.no_grad():
        outputs = network.eval()(torch.randn(2, 3, 64, 64), **others)
    # your code
    logits = unaries.from_queries(outputs)
    # end
    made = transformers.MaskFormerImageProcessor()
    wanted = made.post_process_semantic_segmentation(outputs)
    best = logits.topk(2, 1).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert clear.float().mean() > 0.9
    assert torch.equal(logits.argmax(1)[clear], torch.stack(wanted)[clear])
    wrapped = CRFRNN.wrap(lambda_module(outputs), LABELS)
    assert wrapped(torch.rand(2, 3, 64, 64)).shape == (2, LABELS, 64, 64)


def lambda_module(outputs):
    """A backbone that returns these outputs."""
    found = torch.nn.Module()
    found.forward = lambda image: outputs
    return found


@pytest.mark.parametrize("arguments, words", [
    ({"model": torch.nn.Conv2d(3, 2, 1)}, "model is Conv2d; it must be a PreTrainedModel"),
    ({"processor": processor(), "mean": 0.5}, "processor is given, and mean or std"),
    ({"params": {"theta_alpha": 3}}, "params is"),
    ({"iterations": -1}, "iterations is -1"),
])
def test_arguments_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        CRFForSemanticSegmentation.wrap(**{"model": segformer(), **arguments})
