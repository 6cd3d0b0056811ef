"""What recipes draw in the plane: samples side by side, functions as maps, and codes by their class."""

PIXELS = 200


def square(limit):
    """Places [PIXELS², 2] that fill a square, row by row, and its extent as matplotlib wants it."""
    import jax.numpy as jnp

    axis = jnp.linspace(-limit, limit, PIXELS)
    return jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2), (-limit, limit, -limit, limit)


def beside(clouds, limit):
    """Draws clouds of points, each under its name."""

    def draw(axes):
        for part, (name, points) in zip(_parts(axes, len(clouds)), clouds.items(), strict=True):
            part.scatter(points[:, 0], points[:, 1], s=2, alpha=0.3, linewidths=0)
            part.set(title=name, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")

    return draw


def map_of(maps, extent):
    """Draws functions on a `square`, each under its name, in the same colours."""

    def draw(axes):
        low, high = min(float(values.min()) for values in maps.values()), max(float(values.max()) for values in maps.values())
        parts = _parts(axes, len(maps))
        for part, (name, values) in zip(parts, maps.items(), strict=True):
            picture = part.imshow(values, extent=extent, origin="lower", vmin=low, vmax=high)
            part.set(title=name)
            part.grid(False)
        parts[0].figure.colorbar(picture, ax=list(parts), shrink=0.8)

    return draw


def latent_map(codes, labels):
    """Draws codes [N, Z] in the plane of their first two principal components, each class in a colour of its own."""
    import numpy as np

    codes, labels = np.asarray(codes, np.float64), np.asarray(labels)
    centred = codes - codes.mean(0)
    _, _, axes_of_codes = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ axes_of_codes[:2].T

    def draw(axes):
        points = axes.scatter(plane[:, 0], plane[:, -1], c=labels, s=12, cmap="tab10")
        axes.set_aspect("equal")
        axes.legend(*points.legend_elements(num=None), ncols=2, fontsize="small")

    return draw


def _parts(axes, number):
    sheet = axes.figure
    axes.remove()
    sheet.set_size_inches(3.6 * number + 0.6, 3.8)
    return sheet.subplots(1, number, squeeze=False)[0]
