"""Enlarge a coarse depth map by eight so that its edges follow those of a sharp image.

Depth is known at one pixel of 64. The filter spreads it, together with a channel that is 1 where
depth is known; their quotient is the mean of the known values nearby, in position and colour.
"""

import torch
from torch.nn.functional import interpolate

from densecrf_rnn.nn import BilateralFilter

torch.manual_seed(0)
rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
near = (rows - 40) ** 2 + (columns - 50) ** 2 < 28**2  # a ball in front of a slanted wall
depth = torch.where(near, 1.0, 3 + columns / 64)[None, None]
image = torch.where(near, 0.75, 0.3) + 0.04 * torch.randn(1, 3, 96, 128)

known = torch.zeros_like(depth)
known[..., 4::8, 4::8] = 1
spread = BilateralFilter(theta_position=8.0, theta_guide=0.1, normalization="none")
with torch.no_grad():
    total = spread(torch.cat([depth * known, known], 1), guide=image)
sharp = total[:, :1] / total[:, 1:].clamp(min=1e-6)

smooth = interpolate(depth[..., 4::8, 4::8], size=depth.shape[2:], mode="bilinear")
for name, found in (("bilinear", smooth), ("joint bilateral", sharp)):
    print(f"{name}: root-mean-square error {(found - depth).square().mean().sqrt():.3f} m")
