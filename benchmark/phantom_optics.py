"""Colour phantoms: wound photograph, dermoscopy, endoscopy, fundoscopy, microscopy.

A scene takes a Canvas of m images and returns uint8 [m, size, size, 3]. In the making, pictures are
[3, m, size, size] in about 0..1. `canvas.finding[k]` is how strong class k's finding is, [m, 1, 1] in 0..1.2.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmark.phantom_canvas import Canvas, Floats, Number, paint, ridge

Images = npt.NDArray[np.uint8]


def _plain(canvas: Canvas, colour: Sequence[Number]) -> Floats:
    """A picture [3, m, size, size] of one colour."""
    return paint(np.zeros((3, *canvas.x.shape), np.float32), colour, np.ones(canvas.x.shape, np.float32))


def _flat(trait: Floats) -> Floats:
    """[m, 1, 1] -> [m, 1], to go with the [m, count] arrays of blobs."""
    return trait[:, :, 0]


def wound(canvas: Canvas) -> Images:
    """A limb on a surgical drape with an open wound; granulation, slough and necrosis compete for the bed."""
    canvas.pose(0.10, 0.5, 0.12, mirror=True)
    x, tone = canvas.x, canvas.trait(0.0, 1.0)
    half = canvas.trait(0.66, 0.90) - 0.04 * canvas.female
    across = np.abs(x + 0.03 * canvas.tissue(3)) / half

    # Drape with folds, the limb's round shading, the skin's own texture.
    folds = 0.07 * canvas.tissue(4, 8)
    picture = _plain(canvas, (0.14 + folds, 0.42 + folds, 0.46 + folds))
    shade = np.sqrt(np.clip(1.05 - across**2, 0.08, 1)) + 0.02 * canvas.tissue(30) + 0.04 * canvas.tissue(4)
    skin = (0.86 - 0.28 * tone, 0.66 - 0.29 * tone, 0.55 - 0.28 * tone)
    picture = paint(picture, [level * shade for level in skin], canvas.edge((across - 1) * half, 0.02))

    # Red swollen surroundings, pale margin, bed.
    wobble, size = 0.10 * canvas.tissue(5) + 0.05 * canvas.tissue(12), canvas.trait(0.28, 0.44)
    spot = (
        canvas.trait(-0.1, 0.1),
        canvas.trait(-0.2, 0.2),
        size,
        size * canvas.trait(1.0, 1.4),
        canvas.trait(-0.6, 0.6),
    )
    radius = canvas.radius(*spot) + wobble
    flush = np.exp(-2.5 * np.clip(radius - 1, 0, None)) * canvas.trait(0.2, 0.6) * canvas.edge((across - 1) * half)
    picture = paint(picture, (0.72 * shade, 0.30 * shade, 0.27 * shade), flush)
    rim = canvas.edge((radius - 1.12) * size, 0.02)
    picture = paint(picture, [np.clip(1.1 * level + 0.08, 0, 1) * shade for level in skin], 0.6 * rim)
    picture = _wound_bed(canvas, picture, shade, canvas.edge((radius - 1) * size, 0.01))
    gleam = canvas.edge(2.3 - canvas.speckle(14), 0.3) * canvas.edge((radius - 0.9) * size)
    return canvas.colour(paint(picture, (1.0, 0.97, 0.95), 0.7 * gleam), 0.015, (1.05, 0.98, 0.82))


def _wound_bed(canvas: Canvas, picture: Floats, shade: Floats, bed: Floats) -> Floats:
    """The tissue with the highest of three random fields covers a place; a finding raises its field."""
    fields = [2.6 * strength + 0.6 * canvas.tissue(4) for strength in canvas.finding]
    grains = 0.08 * canvas.tissue(18) + 0.05 * canvas.tissue(8)
    dark = shade * canvas.shot(0.75, 1.05)
    picture = paint(picture, ((0.66 + grains) * dark, (0.13 + grains) * dark, (0.13 + grains) * dark), bed)
    slough = np.clip(0.5 + 2.5 * (fields[1] - np.maximum(fields[0], fields[2])), 0, 1)
    picture = paint(picture, ((0.80 + grains) * dark, (0.64 + grains) * dark, (0.40 + grains) * dark), bed * slough)
    necrosis = np.clip(0.5 + 2.5 * (fields[2] - np.maximum(fields[0], fields[1])), 0, 1)
    return paint(picture, ((0.13 + 0.5 * grains) * dark, 0.09 * dark, 0.08 * dark), bed * necrosis)


def dermoscopy(canvas: Canvas) -> Images:
    """A pigmented lesion under the dermatoscope; melanoma is asymmetric, ragged and of several colours."""
    canvas.pose(0.08, 3.1, 0.15, mirror=True)
    evil, tone = canvas.finding[1], canvas.trait(0, 1)
    shade = (
        1
        - 0.25 * np.clip(np.hypot(canvas.x, canvas.y) - 0.5, 0, 1)
        + 0.03 * canvas.tissue(3)
        + 0.02 * canvas.tissue(30)
    )
    picture = _plain(canvas, [level * shade for level in (0.90 - 0.08 * tone, 0.70 - 0.12 * tone, 0.60 - 0.10 * tone)])

    # Outline: an ellipse made ragged and lopsided.
    size = canvas.trait(0.38, 0.62)
    ragged = (0.04 + 0.12 * evil) * canvas.tissue(6)
    radius = canvas.radius(0, 0, size, size * canvas.trait(0.75, 1.0)) + ragged
    radius = radius + 0.02 * canvas.tissue(14) + 0.35 * evil * canvas.tissue(2) * np.clip(radius, 0, 1)
    lesion = np.clip(0.5 + (1 - radius) / (0.14 - 0.06 * evil), 0, 1)

    # Brown, darker to the middle; a pigment network at the border, globules inside.
    brown = canvas.trait(0, 1)
    body = np.clip(1.5 - 1.1 * radius, 0, 1) * (1 + 0.15 * canvas.tissue(9))
    light = (0.62 - 0.18 * brown, 0.40 - 0.16 * brown, 0.26 - 0.12 * brown)
    picture = paint(picture, [level * (1.3 - 0.55 * body) * shade for level in light], 0.92 * lesion)
    mesh = canvas.trait(24, 34)
    threads = np.abs(
        np.sin(mesh * canvas.x + 1.5 * canvas.tissue(5)) * np.sin(mesh * canvas.y + 1.5 * canvas.tissue(5))
    )
    network = np.clip(1.1 - 2 * threads, 0, 1) * np.clip(2 * radius - 0.6, 0, 1)
    picture = paint(picture, (0.22, 0.12, 0.08), 0.32 * lesion * network)

    # Colours of melanoma: black, blue-grey veil, white regression, red.
    for colour, cells in (
        ((0.12, 0.08, 0.08), 3),
        ((0.36, 0.40, 0.50), 4),
        ((0.86, 0.76, 0.74), 5),
        ((0.66, 0.26, 0.24), 5),
    ):
        patch = np.clip(1.6 * (canvas.tissue(cells) - 2.5 + 2.5 * evil), 0, 1)
        picture = paint(picture, colour, 0.85 * lesion * patch)
    picture = _hairs(canvas, picture)
    view = np.clip(1.25 - 0.9 * np.clip(np.hypot(canvas.x, canvas.y) - 0.9, 0, 1) ** 0.7, 0, 1)
    return canvas.colour(picture * view, 0.015, (0.92, 0.98, 1.12))


def _hairs(canvas: Canvas, picture: Floats) -> Floats:
    """Up to six dark bent hairs, fewer in women."""
    for index in range(6):
        angle, offset, bend = canvas.trait(0, np.pi), canvas.trait(-0.9, 0.9), canvas.trait(-0.25, 0.25)
        along = canvas.x * np.cos(angle) + canvas.y * np.sin(angle)
        off = canvas.y * np.cos(angle) - canvas.x * np.sin(angle) - offset - bend * along**2
        shown = canvas.trait(0, 1) > 0.35 + 0.08 * index + 0.15 * canvas.female
        picture = paint(picture, (0.20, 0.14, 0.11), 0.8 * shown * canvas.edge(np.abs(off) - 0.006))
    return picture


def endoscopy(canvas: Canvas) -> Images:
    """The colon's tunnel with folds and vessels; a polyp bulges, colitis is red, granular, vessel-free."""
    canvas.pose(0.10, 3.1, 0.10, mirror=True)
    polyp, colitis = canvas.finding[1], canvas.finding[2]
    x, y = canvas.x, canvas.y
    far_x, far_y, twist = canvas.trait(-0.25, 0.25), canvas.trait(-0.25, 0.25), canvas.tissue(3)

    # Rings of folds that recede, evenly in the logarithm of the radius, into the dark.
    radius = np.hypot(x - far_x, y - far_y) * (1 + 0.12 * twist)
    rings = np.log(radius + 0.08) * canvas.trait(5.0, 7.5) + canvas.trait(0, 6) + 0.5 * twist
    wave = np.sin(rings + 0.6 * np.sin(rings))
    light = np.clip((radius - 0.06) / 0.45, 0, 1) ** 0.8 * (0.84 + 0.15 * wave)
    grain = canvas.tissue(22)
    light = light * (1 + 0.07 * colitis * grain) + 0.03 * canvas.tissue(5)
    picture = _plain(canvas, [(a - b * colitis) * light for a, b in ((0.93, 0.08), (0.58, 0.24), (0.47, 0.20))])

    # Branching vessels vanish in colitis, which brings pale ulcers.
    vessels = np.maximum(ridge(canvas.tissue(5), 0.12), 0.7 * ridge(canvas.tissue(9), 0.16)) * np.clip(
        1 - 1.1 * colitis, 0, 1
    )
    picture = paint(picture, (0.62 * light, 0.20 * light, 0.20 * light), 0.65 * vessels)
    ulcers = np.clip(2 * (canvas.tissue(9) - 3.0 + 1.7 * colitis), 0, 1)
    picture = paint(picture, (0.92 * light, 0.84 * light, 0.62 * light), 0.9 * ulcers)
    picture = _polyp(canvas, picture, polyp, grain)

    # Wet gleams, and the instrument's rounded black frame.
    gleam = canvas.edge(2.0 - canvas.speckle(11), 0.5) * np.clip(1.6 * light - 0.5, 0, 1)
    picture = paint(picture, (1.0, 1.0, 0.98), 0.9 * gleam)
    corner = (np.abs(canvas.axis)[None, :, None] ** 5 + np.abs(canvas.axis)[None, None, :] ** 5) ** 0.2
    return canvas.colour(picture * canvas.edge(corner - 0.97), 0.015, (0.92, 1.0, 1.06))


def _polyp(canvas: Canvas, picture: Floats, polyp: Floats, grain: Floats) -> Floats:
    """A lit dome with a shadow at its foot, redder than the wall."""
    angle, size = canvas.trait(0, 2 * np.pi), 0.10 + 0.27 * polyp
    x, y, shown = 0.48 * np.cos(angle), 0.48 * np.sin(angle), np.clip(1.6 * polyp - 0.2, 0, 1)
    shadow = canvas.ellipse(x + 0.05, y + 0.06, 1.15 * size, 1.1 * size, soft=0.12)
    picture = paint(picture, (0.35, 0.08, 0.07), 0.6 * shown * shadow)
    radius = canvas.radius(x, y, size, 0.9 * size)
    dome = (
        np.sqrt(np.clip(1 - radius**2, 0, 1)) * 0.65 + 0.38 - 0.25 * (canvas.x - x + canvas.y - y) / size + 0.03 * grain
    )
    picture = paint(picture, (0.95 * dome, 0.46 * dome, 0.40 * dome), shown * canvas.edge((radius - 1) * size, 0.02))
    gleam = canvas.ellipse(x - 0.35 * size, y - 0.35 * size, 0.16 * size, 0.12 * size, soft=0.03)
    return paint(picture, (1.0, 1.0, 1.0), shown * gleam)


def fundoscopy(canvas: Canvas) -> Images:
    """The retina with disc, macula, vessels; retinopathy brings red dots, blots and exudates by number."""
    canvas.pose(0.05, 0.12, 0.06, mirror=True)
    severity, x, y = canvas.finding[0], canvas.x, canvas.y
    pigment, radius = canvas.trait(0, 1), np.hypot(x, y)
    shade = (1.08 - 0.35 * radius**2 + 0.05 * canvas.tissue(3)) * (1 + 0.10 * canvas.speckle(2))
    picture = _plain(
        canvas,
        [level * shade for level in (0.86 - 0.16 * pigment, 0.40 - 0.14 * pigment, 0.17 - 0.05 * pigment)],
    )
    picture = paint(picture, (0.70, 0.32, 0.12), 0.12 * ridge(canvas.tissue(12), 0.6))  # choroidal texture
    macula = np.exp(-((x + 0.18) ** 2 + (y - 0.03) ** 2) / 0.05)
    picture = paint(picture, (0.36, 0.11, 0.05), 0.6 * macula)
    for vein in (0, 1):
        picture = _fundus_vessels(canvas, picture, vein)

    # Optic disc with its pale cup; the vessels enter over it.
    disc_x, cup = 0.50, canvas.trait(0.06, 0.10)
    picture = paint(picture, (1.0, 0.80, 0.48), 0.85 * canvas.ellipse(disc_x, 0, 0.16, 0.18, soft=0.03))
    picture = paint(picture, (1.0, 0.94, 0.74), 0.9 * canvas.ellipse(disc_x, 0.0, cup, cup, soft=0.03))
    picture = paint(picture, (0.55, 0.12, 0.08), 0.7 * canvas.segment(disc_x - 0.01, -0.17, disc_x + 0.01, 0.17, 0.02))
    picture = _retinopathy(canvas, picture, severity)
    frame = canvas.edge(np.hypot(canvas.axis[None, :, None], canvas.axis[None, None, :]) - 0.95)
    return canvas.colour(picture * frame, 0.012, (0.88, 1.04, 1.25))


def _fundus_vessels(canvas: Canvas, picture: Floats, vein: int) -> Floats:
    """Temporal arcades, nasal vessels, branches: y as a function of the way from the disc."""
    way = 0.50 - canvas.x  # towards the macula
    waves = 0.03 * canvas.tissue(5)
    colour, width = ((0.62, 0.16, 0.08), 0.013) if vein == 0 else ((0.42, 0.07, 0.06), 0.020)
    total = np.zeros(canvas.x.shape, np.float32)
    for side in (-1, 1):
        bow = canvas.trait(0.50, 0.62) + 0.10 * vein
        run = np.clip(way, 0, 2)
        arcade = side * bow * np.clip(run, 1e-3, None) ** 0.5 * (1.12 - 0.40 * run) + waves
        slope = 1 + 0.5 * bow / (run + 0.05)
        total = np.maximum(
            total, canvas.edge(np.abs(canvas.y - arcade) / np.hypot(1, slope - 1) - width, 0.01) * (way > 0)
        )
        for start in (0.30, 0.65):  # branches that leave the arcade outwards and inwards
            spread = np.clip(run - start - 0.1 * vein, 0, 2)
            for turn in (0.85, -0.75):
                away = np.abs(canvas.y - arcade - side * turn * spread - 0.5 * waves) / 1.3
                inside = (spread > 0) * (np.abs(canvas.y) > 0.14)
                total = np.maximum(total, canvas.edge(away - 0.6 * width, 0.01) * inside * 0.8)
        nasal = side * (0.10 + (0.9 + 0.3 * vein) * np.clip(-way, 0, 1)) * np.clip(-20 * way, 0, 1) + waves
        total = np.maximum(total, canvas.edge(np.abs(canvas.y - nasal) / 1.3 - width, 0.01) * (way < 0))
    return paint(picture, colour, 0.85 * total)


def _retinopathy(canvas: Canvas, picture: Floats, severity: Floats) -> Floats:
    """Lesions appear one by one as severity grows: first red dots, then blots and yellow exudates."""
    for count, low, size, colour, onset in (
        (24, 0.10, 0.022, (0.45, 0.05, 0.04), 0.1),
        (14, 0.10, 0.042, (0.38, 0.03, 0.03), 0.35),
        (26, 0.05, 0.024, (1.0, 0.88, 0.45), 0.25),
    ):
        angle, reach = canvas.traits(0, 2 * np.pi, count), np.sqrt(canvas.traits(low, 0.72, count))
        sizes = size * canvas.traits(0.7, 1.4, count)
        order = canvas.traits(0, 1, count)
        shown = np.clip(6 * (_flat(severity) - onset - 0.9 * order), 0, 1)
        spots = canvas.blobs(reach * np.cos(angle) - 0.1, reach * np.sin(angle), sizes, 0.9 * sizes, 1.6 * shown)
        picture = paint(picture, colour, 0.9 * np.clip(spots, 0, 1))
    return picture


def microscopy(canvas: Canvas) -> Images:
    """Haematoxylin and eosin: benign glands; in carcinoma nuclei are many, large, dark and disordered."""
    canvas.pose(0.2, 3.1, 0.15, mirror=True)
    evil, stain = canvas.finding[1], canvas.trait(0.75, 1.2)
    fibres = canvas.tissue(5, 18)
    picture = _plain(
        canvas,
        (
            0.95 - 0.06 * stain + 0.03 * fibres,
            0.78 - 0.14 * stain + 0.05 * fibres,
            0.88 - 0.06 * stain + 0.03 * fibres,
        ),
    )

    # Glands: a lilac epithelium around a white lumen, dissolved by the carcinoma.
    order = np.clip(1.15 - evil, 0, 1)
    for index in range(5):
        angle, reach = canvas.trait(0, 1) + index * 2.6, 0.25 + 0.22 * index
        x, y, size = reach * np.cos(angle), reach * np.sin(angle), canvas.trait(0.20, 0.34)
        radius = canvas.radius(x, y, size, size * canvas.trait(0.7, 1.0)) + 0.1 * fibres
        picture = paint(picture, (0.78, 0.55, 0.76), 0.8 * order * canvas.edge((radius - 1) * size, 0.03))
        picture = paint(
            picture,
            (0.97, 0.95, 0.97),
            np.clip(order + 0.1, 0, 1) * canvas.edge((radius - 0.45) * size, 0.03),
        )
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False) + canvas.traits(-0.15, 0.15, 14)
        place = _flat(size) * (0.75 + 0.25 * canvas.traits(-0.4, 0.4, 14))
        picture = _nuclei(
            canvas,
            picture,
            _flat(x) + place * np.cos(turn),
            _flat(y) + place * np.sin(turn),
            _flat(order) + 0 * turn,
            0.030,
            stain,
        )

    # Stromal nuclei, and the carcinoma's.
    picture = _nuclei(
        canvas,
        picture,
        canvas.traits(-1.3, 1.3, 26),
        canvas.traits(-1.3, 1.3, 26),
        np.float32(1),
        0.028,
        stain,
    )
    count = 90
    shown = np.clip(5 * (1.15 * _flat(evil) - 0.15 - canvas.traits(0, 1, count)), 0, 1)
    size = 0.030 + 0.022 * _flat(evil)
    picture = _nuclei(
        canvas,
        picture,
        canvas.traits(-1.3, 1.3, count),
        canvas.traits(-1.3, 1.3, count),
        shown,
        size,
        stain * 1.15,
    )
    return canvas.colour(picture, 0.015, (0.90, 0.90, 1.02))


def _nuclei(
    canvas: Canvas, picture: Floats, x: Floats, y: Floats, shown: Number, size: Number, stain: Floats
) -> Floats:
    """Sharp-edged purple nuclei at [m, count] places."""
    a, b = size * canvas.traits(0.8, 1.4, x.shape[1]), size * canvas.traits(0.8, 1.4, x.shape[1])
    heap = canvas.blobs(x, y, a, b, np.float32(1.4) * shown * np.ones_like(x))
    mask = np.clip(0.5 + (heap - 0.6) * 2.2, 0, 1)
    return paint(picture, (0.46 - 0.14 * stain, 0.32 - 0.14 * stain, 0.62 - 0.10 * stain), 0.9 * mask)
