"""Learn the bandwidths of a bilateral filter that removes noise, and apply it to new images."""

import torch

from densecrf_rnn.nn import BilateralFilter


def make_images(count, size=48):
    """Return noisy and clean images [count, 3, size, size] of discs in 0..1."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre, colours = torch.randint(12, 36, (2, count, 1, 1)), torch.rand(2, count, 3, 1, 1)
    disc = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 15**2)[:, None]
    clean = torch.where(disc, *colours)
    return clean + 0.1 * torch.randn_like(clean), clean


torch.manual_seed(0)
bilateral = BilateralFilter(theta_position=1.0, theta_guide=0.1)
optimizer = torch.optim.Adam(bilateral.parameters(), lr=0.05)
for _ in range(60):
    noisy, clean = make_images(2)
    optimizer.zero_grad()
    (bilateral(noisy) - clean).square().mean().backward()
    optimizer.step()

noisy, clean = make_images(16)
with torch.no_grad():
    filtered = bilateral(noisy)
for name, found in (("noisy", noisy), ("filtered", filtered)):
    print(f"{name}: {-10 * (found - clean).square().mean().log10():.1f} dB on new images")
print(f"learned: {bilateral.theta_position.item():.1f} pixels, {bilateral.theta_guide.item():.2f}")
