"""Grey phantoms: CT of the abdomen, MRI of the brain, OCT of the macula, ultrasound of the liver, chest film.

A scene takes a Canvas of m images and returns uint8 [m, size, size, 3]. Grey levels in the making are about
0 (black) to 1 (white). `canvas.finding[k]` is the strength, [m, 1, 1] in 0..1.2, of the finding of class k.
"""

import numpy as np
import numpy.typing as npt

from benchmark.phantom_canvas import Canvas, Floats, Number, ridge

Images = npt.NDArray[np.uint8]


def _blend(picture: Floats, level: Number, mask: Floats) -> Floats:
    return picture + mask * (level - picture)


def ct(canvas: Canvas) -> Images:
    """Axial slice of the upper abdomen, liver on the left; steatosis darkens it, a lesion is a dark spot."""
    canvas.pose(0.04, 0.05, 0.05)
    mottle = canvas.tissue(14)
    picture = _ct_wall(canvas, mottle)
    picture = _ct_organs(canvas, picture, mottle)
    picture = _ct_skeleton(canvas, picture)
    return canvas.grey(picture + 0.025 * canvas.speckle(40) * (picture > 0.1), 0.02)


def _ct_wall(canvas: Canvas, mottle: Floats) -> Floats:
    """Air, skin, the ring of fat (thicker in women), the muscular wall with ribs, fat with bowel inside."""
    wide, deep = canvas.trait(0.86, 0.95) - 0.03 * canvas.female, canvas.trait(0.68, 0.78)
    fat, wobble = canvas.trait(0.05, 0.10) + 0.03 * canvas.female, 0.02 * canvas.tissue(4)
    picture = _blend(0.02 + 0 * mottle, 0.42, canvas.ellipse(0, 0, wide, deep, wobble=wobble))
    picture = _blend(picture, 0.20, canvas.ellipse(0, 0, wide - 0.02, deep - 0.02, wobble=wobble))
    a, b = wide - fat, deep - fat
    picture = _blend(picture, 0.48, canvas.ellipse(0, 0, a, b, wobble=wobble))
    ring = canvas.radius(0, 0, a, b) + wobble
    around = np.arctan2(canvas.x / a, canvas.y / b)  # 0 at the spine
    ribs = np.clip(2.5 * np.cos(11 * around + canvas.trait(2.6, 3.6)) + 0.6, 0, 1) * (np.abs(around) > 0.35)
    picture = _blend(picture, 0.92, ribs * canvas.edge(np.abs(ring - 1 + 0.045 / b) * b - 0.024))
    bowel = 0.24 + 0.22 * np.clip(mottle, 0, 1)
    return _blend(picture, bowel, canvas.ellipse(0, -0.02, a - 0.08, b - 0.08, wobble=wobble))


def _ct_organs(canvas: Canvas, picture: Floats, mottle: Floats) -> Floats:
    steatosis, lesion = canvas.finding[1], canvas.finding[2]
    contrast, wobble = canvas.trait(-0.03, 0.03), 0.08 * canvas.tissue(4)

    # The liver, a wedge of two ellipses, with portal vessels and the lesion.
    left = canvas.trait(-0.44, -0.38)
    liver = canvas.ellipse(left, -0.05, 0.30, canvas.trait(0.36, 0.42), 0.1, wobble=wobble)
    liver = np.maximum(liver, canvas.ellipse(left + 0.27, -0.22, 0.32, 0.17, 0.25, wobble=wobble))
    level = 0.72 + contrast - 0.34 * steatosis + 0.012 * mottle
    level = level + 0.09 * ridge(canvas.tissue(7), 0.25)
    size = 0.06 + 0.14 * lesion
    spot = canvas.ellipse(
        left + canvas.trait(-0.08, 0.12),
        canvas.trait(-0.20, 0.10),
        size,
        size * canvas.trait(0.8, 1.1),
        soft=0.04,
        wobble=1.5 * wobble,
    )
    picture = _blend(picture, _blend(level, level - 0.05 - 0.34 * lesion, spot), liver)

    # Stomach with its bubble, spleen, kidneys, aorta and inferior vena cava.
    picture = _blend(picture, 0.46, canvas.ellipse(0.36, -0.22, canvas.trait(0.17, 0.24), 0.17, -0.3))
    bubble = canvas.trait(0.06, 0.13)
    picture = _blend(picture, 0.04, canvas.ellipse(0.34, -0.30, bubble, 0.6 * bubble))
    picture = _blend(picture, 0.64 + contrast, canvas.ellipse(0.57, 0.12, 0.12, canvas.trait(0.20, 0.27), 0.15))
    for side in (-1, 1):
        x, y = side * canvas.trait(0.30, 0.35), canvas.trait(0.28, 0.34)
        picture = _blend(picture, 0.78, canvas.ellipse(x, y, 0.10, 0.13, -0.4 * side))
        picture = _blend(picture, 0.45, canvas.ellipse(x - side * 0.03, y, 0.04, 0.06, -0.4 * side))
    picture = _blend(picture, 0.80, canvas.ellipse(0.06, 0.19, 0.06, 0.06))
    return _blend(picture, 0.70, canvas.ellipse(-0.10, 0.16, 0.065, 0.05))


def _ct_skeleton(canvas: Canvas, picture: Floats) -> Floats:
    """Vertebra: body with darker marrow, transverse and spinous processes, canal; the muscles beside it."""
    for side in (-1, 1):
        picture = _blend(picture, 0.50, canvas.ellipse(side * 0.19, 0.48, 0.13, 0.10))
        picture = _blend(picture, 0.90, canvas.segment(side * 0.06, 0.46, side * 0.20, 0.50, 0.025))
    picture = _blend(picture, 0.97, canvas.ellipse(0, 0.34, 0.14, 0.115))
    picture = _blend(picture, 0.78, canvas.ellipse(0, 0.34, 0.11, 0.085))
    picture = _blend(picture, 0.92, canvas.ellipse(0, 0.47, 0.085, 0.075))
    picture = _blend(picture, 0.45, canvas.ellipse(0, 0.465, 0.05, 0.045))
    return _blend(picture, 0.92, canvas.segment(0.0, 0.53, 0.0, 0.60, 0.025))


def mri(canvas: Canvas) -> Images:
    """Axial T1 slice with contrast: a glioma (rim, necrosis, oedema) or a meningioma (bright, outer)."""
    canvas.pose(0.04, 0.10, 0.06, mirror=True)
    a, b = canvas.trait(0.64, 0.72) - 0.02 * canvas.female, canvas.trait(0.80, 0.87) - 0.02 * canvas.female
    wobble = 0.02 * canvas.tissue(3)

    # Scalp, skull, cerebrospinal fluid, brain.
    radius = canvas.radius(0, 0, a, b) + wobble
    picture: Floats = np.full_like(radius, 0.02)
    for shrink, level in ((0.0, 0.75), (0.055, 0.10), (0.125, 0.16), (0.155, 0.42)):
        picture = _blend(picture, level, canvas.edge((radius - 1) * a + shrink))

    # White matter folds into the grey ribbon; sulci are dark threads near the surface.
    inner, folds = (a - 0.155) / a, canvas.tissue(15)
    white = canvas.edge((radius - inner + 0.13 + 0.07 * folds) * a, 0.02)
    picture = _blend(picture, 0.62, white)
    depth = np.clip((radius - 0.45) / 0.2, 0, 1) * canvas.edge((radius - inner) * a)
    picture = _blend(picture, 0.16, 0.9 * depth * ridge(folds - 0.8, 0.6))
    picture = _blend(picture, 0.12, canvas.segment(0, -b * 0.8, 0, -0.32, 0.012))
    picture = _blend(picture, 0.12, canvas.segment(0, 0.36, 0, b * 0.8, 0.012))

    # Deep nuclei around the ventricles.
    large = canvas.trait(0.85, 1.35)
    for side in (-1, 1):
        picture = _blend(picture, 0.50, canvas.ellipse(side * 0.22, 0.02, 0.09, 0.17, -0.35 * side, soft=0.03))
        picture = _blend(picture, 0.09, canvas.ellipse(side * 0.085, -0.17, 0.05 * large, 0.16 * large, -0.30 * side))
        picture = _blend(picture, 0.09, canvas.ellipse(side * 0.16, 0.24, 0.05 * large, 0.15 * large, 0.45 * side))
    picture = _blend(picture, 0.09, canvas.ellipse(0, 0.04, 0.018, 0.10))
    picture = _mri_tumours(canvas, picture, a - 0.155, b - 0.155)
    return canvas.grey(picture + 0.02 * canvas.speckle(40) + 0.06 * picture * canvas.speckle(2), 0.02)


def _mri_tumours(canvas: Canvas, picture: Floats, a: Floats, b: Floats) -> Floats:
    glioma, meningioma, wobble = canvas.finding[1], canvas.finding[2], canvas.tissue(6)
    brain = canvas.ellipse(0, 0, a, b)

    # Glioma: oedema, enhancing rim, necrotic core, somewhere inside the hemisphere.
    angle, reach = canvas.trait(-0.7, 0.7), canvas.trait(0.48, 0.58)
    x, y, size = reach * a * np.cos(angle), reach * b * np.sin(angle), 0.08 + 0.20 * glioma
    shown = np.clip(2 * glioma - 0.5, 0, 1)
    oedema = canvas.ellipse(x, y, 1.8 * size, 1.8 * size, soft=0.10, wobble=0.25 * wobble)
    picture = _blend(picture, 0.27, 0.9 * shown * oedema * brain)
    picture = _blend(picture, 0.92, shown * canvas.ellipse(x, y, size, size, wobble=0.15 * wobble) * brain)
    picture = _blend(
        picture,
        0.18,
        shown * canvas.ellipse(x, y, 0.6 * size, 0.6 * size, soft=0.03, wobble=0.2 * wobble) * brain,
    )

    # Meningioma: homogeneous, broad-based on the dura.
    angle, size = canvas.trait(2.1, 4.1), 0.06 + 0.27 * meningioma
    x, y = (a - 0.5 * size) * np.cos(angle), (b - 0.5 * size) * np.sin(angle)
    shown = np.clip(2 * meningioma - 0.5, 0, 1)
    mass = canvas.ellipse(x, y, size, size, wobble=0.05 * wobble) * canvas.ellipse(0, 0, a + 0.02, b + 0.02)
    return _blend(picture, 1.05, shown * mass)


def ultrasound(canvas: Canvas) -> Images:
    """Curved-array view of the liver: a cyst is black, bright behind; a mass is grey with a shadow."""
    cyst, mass = canvas.finding[1], canvas.finding[2]
    x, y = canvas.x, canvas.y + 1.45  # the fan's apex lies above the picture
    depth, beam = np.hypot(x, y), np.arctan2(x, y)
    fan = canvas.edge((np.abs(beam) - 0.62) * depth) * canvas.edge(0.62 - depth) * canvas.edge(depth - 2.36)

    # Abdominal wall, parenchyma with vessels, diaphragm.
    level = 0.42 + 0.06 * canvas.tissue(8) + 0.05 * canvas.tissue(3)
    wall = canvas.trait(0.86, 1.0) + 0.02 * canvas.tissue(5) + 0.03 * canvas.female
    layers = 0.45 + 0.30 * np.sin((depth - 0.62) * canvas.trait(34, 48))
    level = _blend(level, layers, canvas.edge(depth - wall, 0.02))
    vessels = np.maximum(ridge(canvas.tissue(3), 0.10), ridge(canvas.tissue(4), 0.09))
    level = _blend(level, 0.12, 0.8 * vessels * canvas.edge(wall + 0.1 - depth, 0.05))
    bottom = canvas.trait(2.02, 2.2) + 0.10 * np.cos(4 * beam + canvas.trait(0, 6)) + 0.02 * canvas.tissue(5)
    level = _blend(level, 0.95, canvas.edge(np.abs(depth - bottom) - 0.03, 0.03))
    level = _blend(level, 0.25, canvas.edge(bottom + 0.05 - depth, 0.05))
    level = _ultrasound_lesion(canvas, level, depth, beam, cyst, mass)

    # Speckle is finer along the beam than across; gain falls with depth.
    grain = np.hypot(canvas.speckle(34, 70), canvas.speckle(34, 70)) * 0.8
    fade = np.clip(1.15 - canvas.shot(0.1, 0.4) * (depth - 0.62), 0, 1.2)
    return canvas.grey(fan * fade * np.clip(level, 0.02, 1) * (0.25 + 0.75 * grain), 0.01)


def _ultrasound_lesion(
    canvas: Canvas, level: Floats, depth: Floats, beam: Floats, cyst: Floats, mass: Floats
) -> Floats:
    """Cyst and mass at their own places, and what they do to the beam behind them."""
    for strength, echo, behind, rough in ((cyst, 0.02, 0.40, 0.02), (mass, 0.20, -0.32, 0.16)):
        angle, far = (
            canvas.trait(-0.38, 0.38) + canvas.shot(-0.05, 0.05),
            canvas.trait(1.30, 1.65) + canvas.shot(-0.05, 0.05),
        )
        x, y, size = far * np.sin(angle), far * np.cos(angle) - 1.45, 0.10 + 0.17 * strength
        shown = np.clip(1.6 * strength - 0.2, 0, 1)
        within = canvas.edge((np.abs(beam - angle) - 0.85 * size / far) * far, 0.08) * canvas.edge(far - depth, 0.05)
        level = np.clip(level + shown * behind * within, 0.03, 1)
        shape = canvas.ellipse(x, y, 1.1 * size, 0.9 * size, soft=0.02, wobble=rough * canvas.tissue(7))
        level = _blend(level, echo, shown * shape)
    return level


def x_ray(canvas: Canvas) -> Images:
    """Frontal chest: effusion fills a lung's base, a nodule is a round density, cardiomegaly a wide heart."""
    canvas.pose(0.04, 0.04, 0.04)
    x, y = canvas.x, canvas.y
    wide, tall = canvas.trait(0.30, 0.35) - 0.02 * canvas.female, canvas.trait(0.56, 0.64)

    # Torso with shoulders and neck; the lungs above two domes of diaphragm.
    flank = canvas.edge(np.abs(x) - 0.84 - 0.12 * np.clip(-y - 0.2, 0, 1), 0.03)
    shoulder = canvas.edge(-0.98 + 0.42 * np.clip(np.abs(x) - 0.18, 0, 1) ** 1.5 - y + 0.12 * (np.abs(x) > 0.16), 0.03)
    picture: Floats = 0.05 + flank * shoulder * (0.55 + 0.02 * canvas.tissue(4))
    base = canvas.trait(0.44, 0.54)
    dome = base + 1.2 * (np.abs(x) - 0.36) ** 2 + np.where(x < 0, -0.05, 0.0).astype(np.float32)
    lungs = np.maximum(*(canvas.ellipse(side * 0.43, -0.02, wide, tall, -0.10 * side, soft=0.03) for side in (-1, 1)))
    lungs = lungs * canvas.edge(y - dome, 0.02)
    markings = 0.07 * ridge(canvas.tissue(7), 0.4) * np.clip(1.4 - 1.6 * np.abs(np.abs(x) - 0.12), 0, 1)
    picture = _blend(picture, canvas.trait(0.15, 0.22) + markings, lungs)
    gastric_bubble = 0.7 * canvas.ellipse(0.36, base + 0.22, 0.13, 0.07, soft=0.03)
    picture = _blend(picture, 0.30, gastric_bubble)

    picture = _x_ray_findings(canvas, picture, lungs, dome)
    picture = _x_ray_bones(canvas, picture, flank * shoulder)
    breasts = np.maximum(*(canvas.ellipse(side * 0.45, 0.34, 0.27, 0.24, soft=0.08) for side in (-1, 1)))
    picture = picture + 0.10 * canvas.female * canvas.trait(0.4, 1.0) * breasts
    return canvas.grey(picture + 0.012 * canvas.speckle(40), 0.015)


def _x_ray_findings(canvas: Canvas, picture: Floats, lungs: Floats, dome: Floats) -> Floats:
    effusion, nodule, cardiomegaly = canvas.finding
    x, y, side = canvas.x, canvas.y, np.sign(canvas.trait(-1, 1))

    # A nodule in the other lung, an effusion with its meniscus climbing the chest wall.
    size = 0.07 + 0.08 * nodule
    spot = canvas.ellipse(-side * canvas.trait(0.38, 0.56), canvas.trait(-0.38, 0.22), size, size, soft=0.04)
    picture = _blend(picture, 0.22 + 0.65 * nodule, np.clip(1.5 * nodule, 0, 1) * spot * lungs)
    level = dome + 0.14 - 0.75 * effusion - 0.5 * np.clip(np.abs(x) - 0.42, 0, 1)
    picture = _blend(picture, 0.58, canvas.edge(level - y, 0.06) * lungs * (side * x > 0))

    # Mediastinum, aortic knob, heart.
    centre, half = canvas.trait(0.08, 0.14), canvas.trait(0.20, 0.24) + 0.24 * cardiomegaly
    shadow: Floats = canvas.edge(np.abs(x) - 0.12 - 0.05 * np.clip(y, -0.5, 1), 0.03)
    shadow = np.maximum(shadow, canvas.ellipse(0.12, -0.28, 0.10, 0.10, soft=0.03))
    heart = canvas.ellipse(centre + 0.25 * (half - 0.25), 0.28, half, 0.26 + 0.2 * (half - 0.2), 0.35, soft=0.03)
    shadow = np.maximum(shadow, heart) * canvas.edge(y - 0.75, 0.2) * (y > -0.9)
    return np.asarray(np.maximum(picture, 0.70 * shadow), np.float32)


def _x_ray_bones(canvas: Canvas, picture: Floats, torso: Floats) -> Floats:
    """Ribs arching over the lungs, clavicles, spine, dark trachea."""
    x, y = canvas.x, canvas.y
    phase, pitch = canvas.trait(0, 1), canvas.trait(0.150, 0.175)
    arch = (y - 0.9 * (np.abs(x) - 0.30) ** 2 + 0.15 * np.abs(x)) / pitch + phase
    ribs = np.clip(2.5 * np.cos(2 * np.pi * arch) - 0.9, 0, 1)
    cage = (
        canvas.ellipse(0, 0.05, 0.78, 0.85, soft=0.08) * canvas.edge(0.10 - np.abs(x), 0.1) * canvas.edge(y - 0.6, 0.2)
    )
    picture = picture + 0.10 * ribs * cage
    for side in (-1, 1):
        picture = picture + 0.20 * canvas.segment(
            side * 0.10, -0.56, side * 0.62, canvas.trait(-0.74, -0.66), 0.03, 0.02
        )
    spine = canvas.edge(np.abs(x) - 0.07, 0.02) * (0.7 + 0.3 * np.cos(2 * np.pi * y / 0.13))
    picture = picture + 0.10 * spine * torso
    return _blend(picture, 0.35, 0.8 * canvas.edge(np.abs(x - 0.01) - 0.04, 0.02) * canvas.edge(y + 0.36, 0.05) * torso)


def oct_scan(canvas: Canvas) -> Images:
    """Retinal layers at the fovea: drusen lift the lowest, oedema makes cysts, a membrane a bright mound."""
    canvas.pose(0.05, 0.10, 0.08, mirror=True)
    drusen, oedema, membrane = canvas.finding[1:]
    x, y = canvas.x, canvas.y + 0.03 * canvas.tissue(3) + canvas.trait(-0.15, 0.25) * canvas.x**2
    pit = np.exp(-((x / canvas.trait(0.20, 0.28)) ** 2))

    # Bumps of the pigment epithelium: several small drusen, one large membrane.
    bumps = np.zeros_like(y)
    for _ in range(5):
        place, broad = canvas.trait(-0.7, 0.7), canvas.trait(0.06, 0.10)
        bumps += np.exp(-(((x - place) / broad) ** 2)) * canvas.trait(0.06, 0.14)
    bumps = bumps * np.clip(1.6 * drusen - 0.3, 0, 1.4)
    place = canvas.trait(-0.35, 0.35)
    mound = np.clip(1.4 * membrane - 0.2, 0, 1.4) * np.exp(-(((x - place) / canvas.trait(0.22, 0.34)) ** 2))
    swell = np.clip(1.4 * oedema - 0.25, 0, 1.2) * np.exp(-((x / 0.5) ** 2))

    # Layers from the vitreous down, (upper end, brightness), squeezed by the pit, stretched by swelling.
    floor = 0.30 - bumps - 0.10 * mound
    height = 0.60 * canvas.trait(0.88, 1.12) * (1 - 0.50 * pit + 0.45 * swell) - 0.3 * bumps
    level = (y - floor) / height  # -1 at the inner limiting membrane, 0 at the pigment epithelium
    picture = np.full_like(y, 0.05)
    for top, bright in ((-1.0, 0.78), (-0.84, 0.52), (-0.60, 0.30), (-0.48, 0.55), (-0.40, 0.22)):
        picture += canvas.edge((top - level) * height, 0.015) * (bright - picture)
    depth = y - floor
    for top, bright in ((-0.10, 0.72), (-0.065, 0.35), (-0.045, 0.98)):
        picture += canvas.edge(top - depth, 0.01) * (bright - picture)
    below = 0.50 * np.exp(-2.2 * np.clip(y - 0.33, 0, 2)) * (1 + 0.25 * canvas.tissue(8))
    picture += canvas.edge(0.31 + 0.03 - np.maximum(y, depth + 0.30), 0.02) * (below - picture)

    # Membrane with fluid beside it, cysts, speckle.
    stuff = canvas.edge(np.abs(depth + 0.10 + 0.05 * mound) - 0.16 * mound, 0.02) * np.clip(2 * mound, 0, 1)
    picture += stuff * (0.80 - picture)
    for _ in range(5):
        a = canvas.trait(0.05, 0.11) * np.clip(1.5 * oedema, 0.05, 1.3)
        hole = canvas.ellipse(canvas.trait(-0.45, 0.45), 0.30 - canvas.trait(0.30, 0.48), a, 1.2 * a, soft=0.02)
        picture += np.clip(1.8 * oedema - 0.3, 0, 1) * hole * (0.05 - picture)
    grain = np.hypot(canvas.speckle(48, 60), canvas.speckle(48, 60)) * 0.8
    return canvas.grey(picture * (0.55 + 0.45 * grain), 0.03)
