"""Figures are checked when made, decode to what was given, and are saved nowhere but in their folder."""

import io
import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dljax import report


def _opened(figure: report.Figure) -> Image.Image:
    content, media = figure.render()
    picture = Image.open(io.BytesIO(content))
    assert Image.MIME[picture.format] == media
    return picture


def test_image_decodes_to_its_pixels_enlarged_by_whole_factors():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    decoded = np.asarray(_opened(report.image(pixels, "noise")))
    assert decoded.shape == (185, 259, 3)
    np.testing.assert_array_equal(decoded[18::37, 18::37], pixels)


def test_large_image_keeps_its_size():
    assert _opened(report.image(np.zeros((300, 200), np.uint8), "large")).size == (200, 300)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_floating_picture_of_any_width_is_scaled_to_bytes(dtype):
    decoded = np.asarray(_opened(report.image(jnp.array([[0, 0.5], [1, 1]], dtype), "four")))
    assert decoded[0, 0] == 0
    assert decoded[0, -1] == 128
    assert decoded[-1, -1] == 255


@pytest.mark.parametrize(("num", "columns"), [(1, 1), (2, 2), (3, 3), (10, 5), (16, 4), (24, 6), (25, 5), (64, 8), (100, 10)])
def test_grid_chooses_full_rows(num, columns):
    picture = _opened(report.grid(np.zeros((num, 64, 64), np.uint8), "black"))
    row = np.asarray(picture)[picture.height // (2 * -(-num // columns))]
    assert (np.diff(row.astype(int)) < -100).sum() == columns


def test_grid_holds_each_picture_in_reading_order():
    shades = np.linspace(0, 250, 6).astype(np.uint8)
    picture = np.asarray(_opened(report.grid(np.ones((6, 4, 4), np.uint8) * shades[:, None, None], "shades", columns=3)))
    height, width = picture.shape
    assert [int(picture[height * (2 * row + 1) // 4, width * (2 * column + 1) // 6]) for row in range(2) for column in range(3)] == shades.tolist()


def test_grid_writes_labels_and_cuts_those_that_are_too_wide():
    pictures = np.full((2, 28, 28), 255, np.uint8)
    plain, labelled, long = (np.asarray(_opened(report.grid(pictures, "white", labels))) for labels in (None, ["a", "b\nc ✗"], ["a", "m" * 500]))
    assert labelled.shape[0] > plain.shape[0]
    assert labelled.min() < 60
    assert long.shape[1] == labelled.shape[1]


def test_plot_draws_on_axes_and_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = report.plot(lambda axes: axes.plot([0, 1], [0, 1], linewidth=8), "a diagonal")
    pixels = np.asarray(_opened(figure).convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x00, 0x72, 0xB2)).all(1).sum() > 1000
    assert dict(matplotlib.rcParams) == before


def test_plot_may_change_its_size_and_add_a_colour_bar():
    def draw(axes):
        axes.figure.set_size_inches(3, 3)
        axes.figure.colorbar(axes.imshow(np.eye(4)))

    small, usual = _opened(report.plot(draw, "small")), _opened(report.plot(lambda axes: None, "usual"))
    assert small.width < usual.width / 1.5


@pytest.mark.parametrize("shape", [(6, 20, 20), (6, 20, 20, 1), (6, 20, 20, 3)])
def test_animation_keeps_frames_and_pace(shape):
    frames = np.zeros(shape, np.uint8)
    for t in range(6):
        frames[t, :, 3 * t : 3 * t + 3] = 255
    film = _opened(report.animation(frames, "a bar that moves", fps=25))
    assert (film.n_frames, film.info["duration"], film.info["loop"]) == (6, 40, 0)
    for t in range(6):
        film.seek(t)
        np.testing.assert_array_equal(np.asarray(film.convert("L"))[6::13, 6::13], frames[t].reshape(20, 20, -1)[..., 0])


def test_table_holds_numbers_of_numpy_and_jax_and_no_nan():
    rows = [{"a": np.int64(3), "b": jnp.float32(0.5), "c": float("nan")}, {"d": None, "e": True, "f": (1, 2)}]
    content, _ = report.table(rows, "mixed").render()
    assert json.loads(content) == [{"a": 3, "b": 0.5, "c": None}, {"d": None, "e": True, "f": "(1, 2)"}]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: report.image(np.zeros((3, 8, 8)), "x"),
            ValueError,
            r"array must have shape \[H, W\] or \[H, W, 3\], channels last, got \[3, 8, 8\]",
        ),
        (lambda: report.image(np.zeros(8), "x"), ValueError, r"got \[8\]"),
        (lambda: report.image(np.zeros((0, 8)), "x"), ValueError, "at least one pixel"),
        (lambda: report.image(np.full((2, 2), 255.0), "x"), ValueError, r"in \[0, 1\] where it is floating, got values from 255 to 255"),
        (lambda: report.image(np.full((2, 2), np.nan), "x"), ValueError, "got values from nan"),
        (lambda: report.image(np.zeros((2, 2), np.int32), "x"), TypeError, "must be uint8, or floating"),
        (lambda: report.grid(np.zeros((8, 8)), "x"), ValueError, r"\[N, H, W\] or \[N, H, W, 3\]"),
        (lambda: report.grid(np.zeros((0, 8, 8)), "x"), ValueError, "at least one pixel"),
        (lambda: report.grid(np.zeros((2, 8, 8)), "x", labels=["one"]), ValueError, "got 1 for 2 pictures"),
        (lambda: report.grid(np.zeros((2, 8, 8)), "x", columns=0), ValueError, "grid: columns must be >= 1, got 0"),
        (lambda: report.plot([1, 2], "x"), TypeError, "draw must be a function of axes, got list|parameter 'draw'"),
        (lambda: report.animation(np.zeros((2, 8, 8)), "x"), TypeError, "must be an array of uint8, got float64"),
        (lambda: report.animation(np.zeros((8, 8), np.uint8), "x"), ValueError, r"\[T, H, W\]"),
        (lambda: report.animation(np.zeros((2, 8, 8), np.uint8), "x", fps=0), ValueError, r"fps must be in \(0, 50\], got 0"),
        (lambda: report.table([("a", 1)], "x"), TypeError, "rows must be mappings|parameter 'rows'"),
        (lambda: report.text(b"bytes", "x"), TypeError, "must be a string, got bytes|parameter 'string'"),
    ],
)
def test_wrong_input_is_refused_when_the_figure_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "a\\b", "..", ".", "", ".hidden", "a.png", "a\0", "a\n", "-rf", "x" * 81, "é"])
def test_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be"):
        report.save_figures(tmp_path / "run", {name: report.text("x", "x")})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_save_figures_writes_files_and_their_index(tmp_path):
    figures = {"samples 3": report.image(np.eye(4), "identity"), "verse": report.text("To be ⚓\n", "sample")}
    index = report.save_figures(tmp_path, figures)
    assert index == tmp_path / "figures" / "figures.json"
    assert json.loads(index.read_text()) == [
        {"name": "samples 3", "file": "samples 3.png", "caption": "identity", "media": "image/png"},
        {"name": "verse", "file": "verse.txt", "caption": "sample", "media": "text/plain"},
    ]
    assert (index.parent / "samples 3.png").read_bytes() == figures["samples 3"].render()[0]
    assert (index.parent / "verse.txt").read_text("utf-8") == "To be ⚓\n"
    assert sorted(path.name for path in index.parent.iterdir()) == ["figures.json", "samples 3.png", "verse.txt"]


def test_save_figures_refuses_what_is_no_figure_and_names_that_some_disks_confuse(tmp_path):
    with pytest.raises(TypeError, match=r"'a' must be made by dljax\.report|parameter 'figures'"):
        report.save_figures(tmp_path, {"a": np.eye(3)})
    with pytest.raises(ValueError, match="upper and lower case"):
        report.save_figures(tmp_path, {"a": report.text("", ""), "A": report.text("", "")})


def test_drawing_that_fails_says_which_figure_and_keeps_the_old_index(tmp_path):
    index = report.save_figures(tmp_path, {"old": report.text("", "")})
    before = index.read_bytes()
    with pytest.raises(ZeroDivisionError) as caught:
        report.save_figures(tmp_path, {"bad": report.plot(lambda axes: 1 / 0, "")})
    assert "figure 'bad'" in caught.value.__notes__[0]
    assert index.read_bytes() == before


def test_importing_and_writing_a_report_brings_neither_matplotlib_nor_jax(classifier_run: Path):
    code = "import sys; from dljax import report; report.write(sys.argv[1]); print([m for m in ('matplotlib', 'jax', 'PIL') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code, str(classifier_run)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
