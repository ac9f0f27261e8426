"""Draw depth frames of a body made of spheres, with the labels of its parts, for study.py.

    python examples/body_parts/make_frames.py --out frames

writes three splits: frames to train on, to choose settings on, and to report on.

A figure in a random pose stands in front of a wall. As with a depth camera, depth comes in steps
that grow with the distance, and readings are missing along silhouettes. L is the side that appears
on the left when the figure faces the camera; one figure in seven has its back to the camera, so
that only context tells left from right.
"""

import argparse
from pathlib import Path

import numpy as np
from skimage.io import imsave

PARTS = (
    "background", "head", "torso_up_L", "torso_up_R", "torso_mid_L", "torso_mid_R", "torso_low_L",
    "torso_low_R", "thigh_L", "thigh_R", "shin_L", "shin_R", "foot_L", "foot_R", "upperarm_L",
    "upperarm_R", "forearm_L", "forearm_R", "hand_L", "hand_R",
)  # fmt: skip
FOCAL = 142 / 160  # focal length as a multiple of the image's width


def direction(out, ahead):
    """Return a unit vector that points down, turned outwards and forwards by angles in degrees."""
    out, ahead = np.deg2rad(out), np.deg2rad(ahead)
    return np.array([np.sin(out), np.cos(out) * np.cos(ahead), -np.sin(ahead) * np.cos(out)])


def limb(start, lengths, angles, side):
    """Return the joints of a chain of bones from `start`; each bone's angles add to the last's."""
    points, out, ahead = [start], 0.0, 0.0
    for length, (more_out, more_ahead) in zip(lengths, angles, strict=True):
        out, ahead = out + more_out, ahead + more_ahead
        points.append(points[-1] + length * direction(out, ahead) * [side, 1, 1])
    return points


def spheres(rng):
    """Return a figure: centres [N, 3] (right, down, away; metres from the pelvis), radii, parts."""
    bones = [("head", (0, -0.70, 0), (0, -0.76, 0), 0.10)]
    for letter, side in (("L", -1), ("R", 1)):
        for name, high, width in (("up", -0.48, 0.11), ("mid", -0.28, 0.09), ("low", -0.08, 0.09)):
            bones.append((f"torso_{name}_{letter}", (side * width, high, 0),
                          (side * width, high + 0.1, 0), 0.10))  # fmt: skip
        bend, spread = rng.uniform(0, 90), rng.uniform(-40, 60)
        arm = limb((side * 0.21, -0.50, 0), (0.27, 0.24, 0.10),
                   ((rng.uniform(5, 150), spread), (rng.uniform(-20, 20), bend), (0, 0)), side)
        kick = rng.uniform(-30, 60)
        leg = limb((side * 0.10, 0.06, 0), (0.40, 0.40, 0.16),
                   ((rng.uniform(0, 35), kick), (0, -rng.uniform(0, 60)), (5, 75)), side)
        for joints, names, radii in (
            (arm, ("upperarm", "forearm", "hand"), (0.050, 0.042, 0.045)),
            (leg, ("thigh", "shin", "foot"), (0.080, 0.058, 0.050)),
        ):
            for name, a, b, r in zip(names, joints, joints[1:], radii, strict=False):
                bones.append((f"{name}_{letter}", a, b, r))
    centres, radii, parts = [], [], []
    for name, a, b, r in bones:
        for t in np.linspace(0, 1, 9):
            centres.append((1 - t) * np.asarray(a) + t * np.asarray(b))
            radii.append(r)
            parts.append(PARTS.index(name))
    return np.array(centres), np.array(radii), np.array(parts)


def frame(rng, height, width):
    """Return depth in mm as uint16 [H, W], 0 where there is no reading, and labels as uint8."""
    centres, radii, parts = spheres(rng)
    turn = np.deg2rad(rng.normal(0, 25) + 180 * (rng.random() < 1 / 7))
    size = rng.uniform(0.85, 1.1)
    sine, cosine = np.sin(turn), np.cos(turn)
    rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    centres = size * centres @ rotation.T
    centres += [rng.uniform(-0.4, 0.4), rng.uniform(-0.05, 0.15), rng.uniform(2.4, 3.4)]
    radii = size * radii

    focal = FOCAL * width
    v, u = np.mgrid[:height, :width]
    right, down = (u - width / 2) / focal, (v - height / 2) / focal
    depth = rng.uniform(4, 5) / (1 + rng.uniform(-0.2, 0.2) * right)  # a wall
    floor = (centres[:, 1] + radii).max() + 0.02
    depth = np.minimum(depth, np.where(down > 0, floor / np.maximum(down, 1e-6), np.inf))
    labels = np.zeros((height, width), np.uint8)
    for (x, y, z), r, part in zip(centres, radii, parts, strict=True):
        inside = r**2 - (right * z - x) ** 2 - (down * z - y) ** 2
        surface = z - np.sqrt(np.maximum(inside, 0))
        seen = (inside > 0) & (surface < depth)
        depth[seen], labels[seen] = surface[seen], part

    millimetres = 1000 * depth + rng.normal(0, 2, depth.shape)
    step = np.maximum(2.85e-6 * millimetres**2, 1)
    millimetres = np.round(millimetres / step) * step
    jump = np.zeros(depth.shape, bool)
    jump[:, 1:] |= np.abs(np.diff(depth, axis=1)) > 0.2
    jump[1:] |= np.abs(np.diff(depth, axis=0)) > 0.2
    millimetres[jump & (rng.random(depth.shape) < 0.5)] = 0
    return millimetres.astype(np.uint16), labels


def main():
    """Write a folder in the layout that frames.py reads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to create")
    parser.add_argument("--train", type=int, default=400, help="number of training frames")
    parser.add_argument("--choose", type=int, default=100, help="number of frames to choose on")
    parser.add_argument("--report", type=int, default=300, help="number of frames to report on")
    parser.add_argument("--size", type=int, nargs=2, default=[60, 80], metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        raise SystemExit(f"{options.out} already exists; remove it or choose another --out")
    rng = np.random.default_rng(options.seed)
    # The same frames to report on for any number of frames to train and choose on.
    apart = np.random.default_rng([options.seed, 2])
    for split, drawn in (("train", rng), ("choose", rng), ("report", apart)):
        for kind in ("depth", "label"):
            (options.out / split / kind).mkdir(parents=True)
        for i in range(getattr(options, split)):
            for kind, image in zip(("depth", "label"), frame(drawn, *options.size), strict=True):
                path = options.out / split / kind / f"{i:04d}.png"
                imsave(path, image, check_contrast=False)
    lines = [f"{i} {name}\n" for i, name in enumerate(PARTS)]
    (options.out / "classes.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
