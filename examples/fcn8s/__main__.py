"""Command line: python -m fcn8s COMMAND."""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path

import torch

from densecrf_rnn.metrics import mean_iu

from . import datasets, download, evaluation, predict, published, voc
from .config import RECIPES, Config, Recipe, parse_setting
from .experiments import ABLATIONS, EXPERIMENTS
from .pictures import LAYOUT, check_masks
from .study import Study, check_classes
from .training import load_trained, read_checkpoint, train

EXAMPLES = """
Two cores, CamVid, torchvision's MobileNetV2; the expected hours are printed first:
  python -m fcn8s table1 --recipe small --data DATA --init mobilenet_v2.pth --out runs/camvid
The paper's recipe (a GPU, days; VOC 2012 and SBD, the published FCN-8s):
  python -m fcn8s table1 --recipe paper-published-fcn --data DATA --device cuda \\
      --init fcn8s-heavy-pascal.caffemodel --out runs/voc
Published weights alone (VOC 2012 and SBD), without training:
  python -m fcn8s published --init TVG_CRFRNN_COCO_VOC.caffemodel --data DATA --out runs/published
Several processes:
  torchrun --nproc-per-node 4 -m fcn8s table1 --recipe modern --device cuda ...
To continue an interrupted command, run it again.
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m fcn8s", description="The experiments of the CRF-RNN paper.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in EXPERIMENTS.items():
        one = commands.add_parser(name, help=function.__doc__.splitlines()[0])
        common(one)
        one.add_argument("--seeds", type=count, nargs="+", metavar="N",
                         help="random seeds (default: the recipe's number of seeds, from 0)")
        one.add_argument("--set-base", type=setting, nargs="+", action="extend", default=[],
                         metavar="NAME=VALUE",
                         help="as --set, only for the stages without the CRF")
        one.add_argument("--set-row", type=setting, nargs="+", action="extend", default=[],
                         metavar="NAME=VALUE",
                         help="as --set, only for the rows of the table")
        one.add_argument("--score-classes", type=int, nargs="+", metavar="N",
                         help="report the mean IU over these classes only")
        one.add_argument("--no-search", action="store_true",
                         help="start rows with the recipe's CRF (160 / 3 / 3, weights 5 and 3)")
        one.add_argument("--limit", type=int, metavar="N",
                         help="score only the first N images, for a trial")
        if name == "ablations":
            changed = list(dict.fromkeys(row for _, (row, _), *_ in ABLATIONS))
            one.add_argument("--rows", nargs="+", choices=changed,
                             help="only the changes that train these rows (default: all)")
    one = commands.add_parser("train", help="Train one network.")
    common(one)
    one.add_argument("--stop-at", type=count, metavar="STEP",
                     help="stop here; run again to continue")
    one = commands.add_parser(
        "published", help="Score published weights: rows of Table 1 by inference alone.")
    one.add_argument("--init", type=Path, nargs="+", required=True, metavar="FILE",
                     help=".caffemodel of FCN-8s or CRF-RNN, or a model of crfasrnn_pytorch")
    one.add_argument("--data", type=Path, required=True, help="folder of VOC 2012 and SBD")
    one.add_argument("--out", type=Path, required=True, help="folder for scores")
    one.add_argument("--iterations", type=int, default=10, metavar="T", help="default 10")
    one.add_argument("--size", type=int, default=published.SIZE, metavar="N",
                     help="pad images to N x N (default 500, as published; 0: do not pad)")
    one.add_argument("--no-search", action="store_true",
                     help="disconnected row: the released CRF (160 / 3 / 3, weights 5 and 3)")
    one.add_argument("--limit", type=int, metavar="N", help="score only the first N images")
    one.add_argument("--device", default="cpu")
    one.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    one = commands.add_parser("predict", help="Label images with a trained or published network.")
    one.add_argument("checkpoint", type=Path,
                     help="last.pt, .caffemodel or a model of crfasrnn_pytorch")
    one.add_argument("images", type=Path, nargs="+",
                     help="images or folders; with --voc-test the folder of VOCdevkit")
    one.add_argument("--out", type=Path, required=True, help="folder for NAME.png")
    one.add_argument("--logits", action="store_true",
                     help="also write NAME.npy: the network's logits, for densecrf-rnn refine")
    one.add_argument("--iterations", type=int, metavar="T", help="default: the checkpoint's")
    one.add_argument("--size", type=int, metavar="N",
                     help="pad images to N x N (default: 500 for a published net, else 0)")
    one.add_argument("--voc-test", type=int, nargs="?", const=2012, choices=predict.YEARS,
                     metavar="YEAR", help="label the test list of VOC (default 2012) and pack "
                     "results.tgz for its evaluation server")
    one.add_argument("--device", default="cpu")
    one.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    one = commands.add_parser("evaluate", help="Compute the mean IU of a checkpoint.")
    one.add_argument("checkpoint", type=Path)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--part", choices=("train", "select", "report"), default="report")
    one.add_argument("--iterations", type=int, nargs="+", metavar="T")
    one.add_argument("--score-classes", type=int, nargs="+", metavar="N")
    one.add_argument("--device", default="cpu")
    one = commands.add_parser("download", help="Download a dataset.")
    one.add_argument("name", choices=tuple(download.ARCHIVES))
    one.add_argument("--data", type=Path, required=True)
    return top


def common(one: argparse.ArgumentParser) -> None:
    """Declare the arguments of all commands that train."""
    one.add_argument("--recipe", choices=tuple(RECIPES),
                     help="default: small, on CamVid or VOC, whichever --data holds")
    one.add_argument("--data", type=Path, required=True, help="folder of the datasets")
    one.add_argument("--out", type=Path, required=True, help="folder for runs and tables")
    one.add_argument("--init", type=Path, metavar="FILE",
                     help="initial weights: .npz, .caffemodel or .pth; none: random ones")
    one.add_argument("--device", default="cpu", help="cpu or cuda")
    one.add_argument("--threads", type=positive, help="CPU threads (default: torch's choice)")
    one.add_argument("--workers", type=count, default=0, help="processes that read images")
    one.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs")
    one.add_argument("--set", type=setting, nargs="+", action="extend", default=[],
                     metavar="NAME=VALUE",
                     help="settings of config.Config that override the recipe's")


def count(text: str, least: int = 0) -> int:
    """Convert an integer of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)


positive = partial(count, least=1)


def setting(text):
    try:
        return parse_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(arguments=None) -> None:
    args = parser().parse_args(arguments)
    try:
        run(args, sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("\nfcn8s: interrupted; give the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    except torch.cuda.OutOfMemoryError as error:
        raise SystemExit(f"fcn8s: the GPU's memory is too small: {error}") from error
    except OSError as error:
        about = error.filename is not None and error.strerror
        text = f"{error.filename}: {error.strerror}" if about else error
        raise SystemExit(f"fcn8s: {text}") from error
    except (ValueError, ImportError, FloatingPointError) as error:
        raise SystemExit(f"fcn8s: {error}") from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def run(args, command) -> None:
    if args.command == "download":
        download.download(args.name, args.data)
        return
    if args.command == "evaluate":
        evaluate(args)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    device = local_device(args.device)
    command = shlex.join(["python", "-m", "fcn8s", *command])
    if args.command == "published":
        scoring = published.Scoring(
            args.data, args.out, iterations=args.iterations, search=not args.no_search,
            size=args.size or None, limit=args.limit, device=device, command=command)
        published.published(args.init, scoring)
        return
    if args.command == "predict":
        label_images(args, device)
        return
    recipe = choose_recipe(args)
    init = None if args.init is None or str(args.init) == "none" else args.init
    if init is not None and not init.is_file():
        raise FileNotFoundError(f"--init {init} is no file; give the initial weights, or none")
    if args.init is None:
        text = (f"this recipe expects {recipe.initial}; the README of the example has the line "
                "that makes such a file")
        if args.command != "train":
            raise ValueError(f"{args.command} needs --init FILE, because {text}. --init none makes "
                             "a table from random weights")
        print(f"no --init: random initial weights are used; {text}", file=sys.stderr)
    if args.command == "train":
        settings = {**recipe.common, **recipe.stages[-1], **dict(args.set)}
        config = Config().with_(**settings)
        pictures = datasets.load(config.dataset, args.data)["train"]
        check_masks(pictures)
        train(config, pictures, args.out, init=init, device=device, workers=args.workers,
              stop_at=args.stop_at, tensorboard=args.tensorboard)
        return
    settings = dict(args.set)
    if args.command == "table3":
        settings = {"dataset": "context", **settings}
    study = Study(
        recipe, args.data, args.out,
        seeds=tuple(args.seeds or range(recipe.seeds)), settings=settings,
        base_settings=dict(args.set_base), row_settings=dict(args.set_row), init=init,
        score_classes=None if args.score_classes is None else tuple(args.score_classes),
        search=not args.no_search, limit=args.limit, device=device, workers=args.workers,
        tensorboard=args.tensorboard, command=command,
    )
    options = {"coco": True} if args.command == "table1" and args.recipe == "paper-coco" else {}
    if args.command == "ablations":
        options = {"rows": args.rows}
    EXPERIMENTS[args.command](study, **options)


def choose_recipe(args) -> Recipe:
    """Return the recipe of a command, on the dataset that `--data` holds.

    Raises
    ------
    FileNotFoundError
        `--data` holds other datasets than the recipe's; the message names recipes that fit.
    """
    here = datasets.present(args.data)
    recipe = RECIPES[args.recipe or "small"]
    wanted = dict(args.set).get("dataset", recipe.common["dataset"])
    if args.command == "table3" and "dataset" not in dict(args.set):
        wanted = "context"
    chosen = args.recipe is not None or args.command == "table3" or "dataset" in dict(args.set)
    if not here and not chosen and args.data.is_dir():
        raise FileNotFoundError(
            f"{args.data} holds no dataset that is known here, such as VOCdevkit/VOC2012 or CamVid/"
            f"{voc.advice(args.data)}; {LAYOUT}"
        )
    if wanted in here or not here:  # `datasets.load` says what it looked for
        if not chosen and "voc" in here:
            print(f"{args.data} holds CamVid and VOC 2012: recipe small with CamVid; --set "
                  "dataset=voc takes VOC", file=sys.stderr)
        return recipe
    others = [name for name, one in RECIPES.items() if one.common["dataset"] in here]
    if args.recipe is None and wanted == "camvid" and "voc" in here:
        print(f"{args.data} holds VOC 2012 and not CamVid: recipe small with dataset=voc. Recipes "
              f"for VGG-16: {', '.join(others)}", file=sys.stderr)
        return replace(recipe, common={**recipe.common, "dataset": "voc"})
    fitting = f"--recipe {' or '.join(others)}, or " if others else ""
    raise FileNotFoundError(
        f"{args.data} holds {', '.join(here)}, but {args.command} with recipe "
        f"{args.recipe or 'small'} needs {wanted}; give {fitting}--set dataset={here[0]}, or "
        f"another --data"
    )


def label_images(args, device: str) -> None:
    """Write the labels of images."""
    predicting = predict.Predicting(
        args.checkpoint, args.out, logits=args.logits, iterations=args.iterations, size=args.size,
        device=device)
    if args.voc_test is None:
        written = predicting.run(predict.images_in(args.images))
        print(f"{len(written)} label maps in {args.out}")
        return
    if len(args.images) > 1:
        raise ValueError("with --voc-test give one folder, that of VOCdevkit")
    print(f"wrote {predict.voc_test(predicting, args.images[0], args.voc_test)}")


def evaluate(args) -> None:
    """Print the mean IU of a checkpoint."""
    device = local_device(args.device)
    name = read_checkpoint(args.checkpoint)["config"]["dataset"]
    pictures = datasets.load(name, args.data)[args.part]
    if args.score_classes is not None:
        check_classes(args.score_classes, pictures)
    model, _ = load_trained(args.checkpoint, len(pictures.classes))
    wanted = args.iterations or [None]
    found = evaluation.confusions(model, pictures, wanted, device)
    for iterations, confusion in zip(wanted, found[:, :, 0].sum(0, dtype="int64"), strict=True):
        text = "" if iterations is None else f" after {iterations} iterations"
        print(f"{pictures.name}: mean IU {100 * mean_iu(confusion, args.score_classes):.2f}{text}")


def local_device(device: str) -> str:
    """Return the device of this process; with torchrun, the GPU of its local rank."""
    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        kind, index = "", 0
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device is {device}; give cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {device}, but torch finds no GPU; use --device cpu")
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ValueError(f"--device is {device}, but there are {torch.cuda.device_count()} GPUs, "
                         "counted from 0")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    if isinstance(sys.stdout, TextIOWrapper):  # redirected, it may lack the signs of a table
        sys.stdout.reconfigure(encoding="utf-8")
    main()
