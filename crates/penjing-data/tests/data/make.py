"""Makes the images of this folder and pillow.npz, their pixels [channels, height, width] as Pillow decodes them.

Run here with any Python that has numpy and Pillow; the tests need neither.
"""
import numpy as np
from PIL import Image

y, x = np.mgrid[0:23, 0:17]
picture = np.stack([40 + 10 * x, 20 + 9 * y, 128 + 60 * np.sin(x / 3 + y / 5)], -1).clip(0, 255).astype(np.uint8)
rgb = Image.fromarray(picture)
files = {
    "baseline.jpg": (rgb, dict(quality=90)),
    "progressive.jpg": (rgb, dict(quality=80, progressive=True)),
    "full-chroma.jpg": (rgb, dict(quality=90, subsampling=0, restart_marker_blocks=1)),
    "grey.jpg": (rgb.convert("L"), dict(quality=90)),
    "palette.png": (rgb.quantize(16), {}),
    "transparent.png": (Image.fromarray(np.dstack([picture, picture[..., 0]]), "RGBA"), {}),
}
pixels = {}
for name, (image, options) in files.items():
    image.save(name, **options)
    read = Image.open(name)
    array = np.asarray(read.convert("L" if read.mode == "L" else "RGB"))
    pixels[name] = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
np.savez_compressed("pillow.npz", **pixels)
