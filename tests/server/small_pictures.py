"""A folder of many pictures that take no time."""

from __future__ import annotations

import cv2


def fill(folder, scenes, number):
    """Small pictures, cut out of the scenes at other places each, in two folders."""
    pictures = [cv2.imread(str(path)) for path in sorted((scenes / "images").glob("*.jpg"))]
    names = []
    for index in range(number):
        picture = pictures[index % len(pictures)]
        row, column = (index * 7) % (picture.shape[0] - 96), (index * 13) % (picture.shape[1] - 128)
        name = f"{'ab'[index % 2]}/{index:05d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture[row : row + 96, column : column + 128])
        names.append(name)
    return sorted(names)
