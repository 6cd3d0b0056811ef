"""Figures: what a model makes, as pictures, plots, animations, tables and text that a run keeps and its report shows."""

import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B")
"""Colours that stay apart for colour-blind readers (Okabe and Ito, 2008), the yellow left out: it fades on white."""

SUFFIXES = {"image/png": ".png", "image/gif": ".gif", "application/json": ".json", "text/plain": ".txt"}
"""The media types that a figure may have, and the ends of their file names."""

INDEX = "figures.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,79}")
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.usetex": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


@dataclass(frozen=True)
class Figure:
    """Something to look at: checked when it is made, encoded when it is rendered.

    Attributes:
      caption: what the reader sees, and what a screen reader says of a picture.
      media: a media type out of `SUFFIXES`.
      encode: makes the bytes.

    >>> text("To be, or not", "a sample").render()
    (b'To be, or not', 'text/plain')
    """

    caption: str
    media: str
    encode: Callable[[], bytes] = field(repr=False)

    def render(self) -> tuple[bytes, str]:
        """The bytes and their media type."""
        return self.encode(), self.media

    def save(self, folder: str | os.PathLike[str], name: str) -> Path:
        """Write `folder/name` with the ending of the media type, whole or not at all.

        Raises:
          ValueError: `name` is no plain file name.
        """
        if not is_file_name(name):
            raise ValueError(f"figure: name must be at most 80 letters, digits, spaces, '-' and '_', and begin with a letter or digit, got {name!r}")
        path = Path(folder) / (name + SUFFIXES[self.media])
        write_atomically(path, self.encode())
        return path


def image(array: Shaped[Any, "..."], caption: str) -> Figure:
    """One picture, enlarged to a readable size by whole pixels.

    Args:
      array: [H, W], [H, W, 1] or [H, W, 3], uint8 or floating in [0, 1].
    Raises:
      ValueError: another shape, an empty picture, values outside. TypeError: another dtype.

    >>> image(np.eye(8), "the identity").media
    'image/png'
    """
    picture = _pixels("image", "array", array, ("H", "W"))
    return Figure(caption, "image/png", lambda: _png(_picture(_enlarged(picture, 256))))


def grid(images: Shaped[Any, "..."], caption: str, labels: Sequence[str] | None = None, *, columns: int | None = None) -> Figure:
    r"""Pictures side by side, row by row, each with its label below.

    Args:
      images: [N, H, W], [N, H, W, 1] or [N, H, W, 3], uint8 or floating in [0, 1].
      labels: N short strings, cut to the width of a picture; a line break makes two lines ("boot\nwas sandal").
      columns: pictures a row, >= 1; None chooses.
    Raises:
      ValueError: another shape, no pictures, values outside, not N labels, `columns` < 1. TypeError: another dtype.

    >>> grid(np.zeros((2, 8, 8)), "two digits", labels=["0", "1"]).caption
    'two digits'
    """
    pictures = _pixels("grid", "images", images, ("N", "H", "W"))
    if labels is not None and len(labels) != len(pictures):
        raise ValueError(f"grid: labels must be one string a picture, got {len(labels)} for {len(pictures)} pictures")
    from dljax.core.checks import check_int  # brings jax, which reading a report does not need

    num = len(pictures)
    if columns is None:
        # Labels need room: more than eight a row would be cut to stumps.
        columns = _columns(num) if labels is None else min(8, _columns(num))
    columns = min(num, check_int("grid", "columns", columns, minimum=1))
    texts = [str(label) for label in labels] if labels is not None else []
    return Figure(caption, "image/png", lambda: _png(_tiled(pictures, texts, columns)))


def plot(draw: Callable[["Axes"], Any], caption: str) -> Figure:
    """What `draw` draws with matplotlib, without pyplot and its global state.

    Args:
      draw: `draw(axes)`; `axes.figure` gives the rest, such as `axes.figure.set_size_inches(6, 6)` or `axes.figure.colorbar(...)`.
    Raises:
      TypeError: `draw` cannot be called.

    >>> plot(lambda axes: axes.plot([1, 2, 4]), "powers of two").media
    'image/png'
    """
    if not callable(draw):
        raise TypeError(f"plot: draw must be a function of axes, got {type(draw).__name__}")

    def encode() -> bytes:
        import matplotlib
        from cycler import cycler
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Sheet

        buffer = io.BytesIO()
        style: dict[Any, Any] = _STYLE | {"axes.prop_cycle": cycler(color=PALETTE)}
        with matplotlib.rc_context(style):
            sheet = Sheet(figsize=(6.4, 4.0), layout="constrained")
            FigureCanvasAgg(sheet)
            draw(sheet.add_subplot())
            sheet.savefig(buffer, format="png", dpi=160, bbox_inches="tight", pad_inches=0.08)
        return buffer.getvalue()

    return Figure(caption, "image/png", encode)


def animation(frames: Shaped[Any, "..."], caption: str, fps: int | float = 20) -> Figure:
    """A film that repeats, such as a rollout, as a GIF; small frames are enlarged by whole pixels.

    Args:
      frames: uint8 [T, H, W], [T, H, W, 1] or [T, H, W, 3].
      fps: frames a second, in (0, 50]; GIF counts in hundredths of a second, and the nearest duration is taken.
    Raises:
      ValueError: another shape, no frames, `fps` outside. TypeError: not uint8.

    >>> animation(np.zeros((3, 8, 8), np.uint8), "nothing moves", fps=10).media
    'image/gif'
    """
    if getattr(frames, "dtype", None) != np.uint8:
        raise TypeError(f"animation: frames must be an array of uint8, got {getattr(frames, 'dtype', type(frames).__name__)}; scale and convert them")
    films = _pixels("animation", "frames", frames, ("T", "H", "W"))
    from dljax.core.checks import check_range

    check_range("animation", "fps", fps, 0, 50, open_low=True)

    def encode() -> bytes:
        buffer = io.BytesIO()
        first, *rest = (_picture(_enlarged(frame, 256)) for frame in films)
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=10 * round(100 / fps), loop=0)
        return buffer.getvalue()

    return Figure(caption, "image/gif", encode)


def table(rows: Sequence[Mapping[str, Any]], caption: str) -> Figure:
    """Rows under the union of their keys, in the order in which they come; what a row lacks stays empty.

    Args:
      rows: one mapping a row; values are strings, numbers, booleans, None (NaN becomes None), and anything else as `str` shows it.
    Raises:
      TypeError: a row is no mapping.

    >>> table([{"word": "boot", "score": np.float32(0.5)}], "nearest").render()
    (b'[{"word": "boot", "score": 0.5}]', 'application/json')
    """
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"table: rows must be mappings of column to value, got {type(row).__name__}")
    plain = [{str(column): _plain(value) for column, value in row.items()} for row in rows]
    return Figure(caption, "application/json", lambda: json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace"))


def text(string: str, caption: str) -> Figure:
    """Text as it is, spaces and line breaks kept.

    Raises:
      TypeError: no string.

    >>> text("<b>not bold</b>", "escaped in the report").media
    'text/plain'
    """
    if not isinstance(string, str):
        raise TypeError(f"text: string must be a string, got {type(string).__name__}")
    return Figure(caption, "text/plain", lambda: string.encode("utf-8", "replace"))


def save_figures(run_dir: str | os.PathLike[str], figures: Mapping[str, Figure]) -> Path:
    """Write figures into `run_dir/figures`, and beside them `figures.json`: `[{"name", "file", "caption", "media"}]`.

    The index comes last and names only files that are complete; it replaces the index of an earlier call.

    Args:
      figures: name -> figure. A name becomes a file name: letters, digits, spaces, '-' and '_'.
    Returns:
      The path of the index.
    Raises:
      ValueError: a name is no plain file name, or two differ in nothing but case. TypeError: a value is no figure.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     json.loads(save_figures(folder, {"verse": text("To be", "a sample")}).read_text())
    [{'name': 'verse', 'file': 'verse.txt', 'caption': 'a sample', 'media': 'text/plain'}]
    """
    if len({name.casefold() for name in figures}) < len(figures):
        raise ValueError(f"save_figures: names must differ in more than upper and lower case, got {sorted(figures)}")
    for name, figure in figures.items():
        if not isinstance(figure, Figure):
            raise TypeError(f"save_figures: figure {name!r} must be made by dljax.report (image, grid, plot, ...), got {type(figure).__name__}")
    folder = Path(run_dir) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for name, figure in figures.items():
        try:
            path = figure.save(folder, name)
        except Exception as error:
            error.add_note(f"while figure {name!r} was drawn")
            raise
        index.append({"name": name, "file": path.name, "caption": figure.caption, "media": figure.media})
    write_atomically(folder / INDEX, json.dumps(index, indent=1).encode())
    return folder / INDEX


def is_file_name(name: str) -> bool:
    """Whether a figure's name can be a file name on any system and stays inside its folder.

    >>> is_file_name("samples 3"), is_file_name("../../x"), is_file_name("a.png"), is_file_name("")
    (True, False, False, False)
    """
    return _NAME.fullmatch(name) is not None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "a"), b"new")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a']
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _pixels(who: str, name: str, array: Any, axes: tuple[str, ...]) -> np.ndarray:
    """Checked and brought to uint8 [..., H, W] or [..., H, W, 3]."""
    array = np.asarray(array)
    shapes = f"[{', '.join(axes)}] or [{', '.join(axes)}, 3]"
    if array.ndim == len(axes) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if not (array.ndim == len(axes) or (array.ndim == len(axes) + 1 and array.shape[-1] == 3)):
        raise ValueError(f"{who}: {name} must have shape {shapes}, channels last, got {list(array.shape)}")
    if array.size == 0:
        raise ValueError(f"{who}: {name} must have at least one pixel, got shape {list(array.shape)}")
    if array.dtype == np.uint8:
        return array
    # bfloat16 is no np.floating to NumPy.
    if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
        raise TypeError(f"{who}: {name} must be uint8, or floating in [0, 1], got {array.dtype}; divide by the largest value or use astype('uint8')")
    array = array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    # Rounding may leave a sigmoid or an interpolation an ulp of bfloat16 outside.
    if not (low >= -0.004 and high <= 1.004):
        raise ValueError(f"{who}: {name} must be in [0, 1] where it is floating, got values from {low:.4g} to {high:.4g}; scale or clip them")
    return np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)


def _enlarged(picture: np.ndarray, least: int) -> np.ndarray:
    factor = max(1, math.ceil(least / max(picture.shape[:2])))
    return picture.repeat(factor, 0).repeat(factor, 1)


def _picture(pixels: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _png(picture: "Image") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _columns(num: int) -> int:
    """Between a square and twice as wide as high: the fewest empty places, then the nearest to 3:2."""
    root = math.sqrt(num)
    choices = range(math.ceil(root), min(num, math.ceil(2.2 * root)) + 1)
    return min(choices, key=lambda columns: (-num % columns, abs(columns - math.sqrt(1.5 * num))))


def _tiled(pictures: np.ndarray, labels: list[str], columns: int) -> "Image":
    from PIL import Image, ImageDraw

    num, height, width = pictures.shape[:3]
    # About a thousand pixels wide, so that the labels stay sharp where a screen has two pixels for one.
    least = min(320, max(136 if labels else 48, 1040 // columns))
    factor = max(1, math.ceil(least / max(height, width)))
    height, width, gap, line = factor * height, factor * width, 10, 29
    below = 8 + line * max(label.count("\n") + 1 for label in labels) if labels else 0
    rows = math.ceil(num / columns)
    size = (columns * (width + gap) + gap, rows * (height + below + gap) + gap)
    sheet = Image.new("L" if pictures.ndim == 3 else "RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), _font(23) if labels else None
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = gap + column * (width + gap), gap + row * (height + below + gap)
        sheet.paste(_picture(picture.repeat(factor, 0).repeat(factor, 1)), (left, top))
        # A thin frame keeps a white picture apart from the white sheet.
        pen.rectangle((left - 1, top - 1, left + width, top + height), outline="#BBBBBB")
        for number, label in enumerate(labels[index].split("\n") if labels else ()):
            label = _fitted(label, width, lambda string: pen.textlength(string, font))
            pen.text((left + width / 2, top + height + 5 + number * line), label, fill="#222222", font=font, anchor="ma")
    return sheet


def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _fitted(label: str, width: int, length: Callable[[str], float]) -> str:
    if length(label) <= width:
        return label
    while label and length(label + "…") > width:
        label = label[:-1]
    return label + "…"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
