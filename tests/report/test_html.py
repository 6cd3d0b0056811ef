"""The report of a run: complete, readable by a browser, and safe whatever the run's folder holds."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dljax import report
from dljax.report import run as reading

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'; </style><svg onload=alert(1)>", "</script><b>", "\ud800\x00\u202e")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TAGS = re.compile(
    "html|head|meta|title|style|body|main|header|footer|script|h1|h2|h3|p|b|i|strong|small|span|ul|li|dl|dt|dd|div|section|label|input|"
    "svg|g|path|line|circle|text|table|thead|tbody|tr|th|td|figure|figcaption|img|pre"
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on the path")


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """A folder from a stranger: markup in every string, files that point outside, kinds that lie."""
    script, image, style, close, control = HOSTILE
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    members = [{script: image, "seed": close}, {script: style, "seed": control}]
    metrics = [{"step": t, script: [t + 1.0, None], image: [1.0, 2.0], close: [1e-9 + t**9, 1.0], control: 3} for t in range(6)]
    environment = {script: {image: style}, "devices": close, "platform": control}
    config = {"recipe": script, "options": {image: script, "nested": {close: control}}, "seed": image, "steps": script, "members": members}
    config |= {"environment": environment, "created": style}
    target = {"metric": script, "op": ">=", "value": 2, "source": image}
    result = {"status": close, "message": script + image, "target": target, "unit": style, "steps_per_second": 1, "units_per_second": 2}
    result |= {"measured": {image: 1, close: [script]}, "memory_bytes": {script: 10**400}, "seconds": -(10**400)}
    folder = tmp_path / "hostile run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
    (folder / "evaluations.jsonl").write_text(json.dumps({"step": 3, script: [1, 2]}))
    figures = {"table": report.table([{script: image, close: control}], style), "text": report.text("".join(HOSTILE), script)}
    index = report.save_figures(folder, figures)
    (index.parent / "link.txt").symlink_to(secret)
    (index.parent / "page.png").write_text(script)
    entries = json.loads(index.read_text())
    entries += [{"name": script, "file": file, "caption": image, "media": media} for file, media in (
        ("../../secret.txt", "text/plain"), (str(secret), "text/plain"), ("link.txt", "text/plain"), ("page.png", "image/png"),
        ("page.png", "text/html"), ("x.svg", "image/svg+xml"), (script, "image/png"), ("a\0.png", "image/png"), ("n" * 5000 + ".png", "image/png"),
    )]  # fmt: skip
    index.write_text(json.dumps([*entries, "no entry", None, {"file": ["x"]}]))
    return folder


class _Reader(HTMLParser):
    """Elements, attributes and text, as a browser would find them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.within.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.within.pop()

    def handle_endtag(self, tag):
        assert self.within.pop() == tag, "every element is closed where it was opened"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.within):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _read(path: Path) -> _Reader:
    return _Reader(path.read_text("utf-8").removeprefix("<!DOCTYPE html>"))


def _harmless(reader: _Reader) -> None:
    assert all(TAGS.fullmatch(tag) for tag in reader.tags)
    assert reader.tags["script"] == reader.tags["style"] == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("href", "style", "srcdoc", "action")]
    assert all(re.match(r"data:image/(png|gif);base64,[A-Za-z0-9+/=]+$", value) for name, value in reader.attributes if name == "src")


def test_report_says_what_was_run_and_how_it_went(classifier_run):
    text = _read(report.write(classifier_run)).text
    for words in (
        "fashion-mnist/cnn done", "seed 0", "accuracy 0.9212 ✓ target met", "target: accuracy ≥ 0.91 · source: Xiao, Rasul and Vollgraf (2017)",
        "4\u202f700", "3 min 7 s", "compilation 4.21 s", "3\u202f203 examples/s", "153 GFLOP/s", "32.5 % of peak", "2 × cpu", "learning_rate 0.001",
        "optimizer.weight_decay 0.0001", "augment true", "jax 0.10.2", "recompilations 0", "memory, params 1.6 MiB", "memory, peak 384.0 MiB",
        "expected_calibration_error", "Precision and recall of each class", "ankle boot 0.935 0.86 1\u202f000",
    ):  # fmt: skip
        assert " ".join(words.split()) in text, words


def test_report_is_complete_in_itself(classifier_run):
    path = report.write(classifier_run)
    reader = _read(path)
    _harmless(reader)
    (policy,) = [value for name, value in reader.attributes if name == "content" and "default-src" in value]
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import", path.read_text("utf-8"))


def test_pictures_are_embedded_as_they_are_and_described(classifier_run, sweep_run):
    reader = _read(report.write(classifier_run))
    assert reader.tags["img"] == 5
    assert ("alt", "Where the classes are confused") in reader.attributes
    assert sum(value.startswith("data:image/gif;base64,R0lGOD") for _, value in _read(report.write(sweep_run)).attributes) == 1
    assert all(value for name, value in reader.attributes if name == "aria-label")


def test_sweep_is_judged_group_by_group_and_a_silent_member_counts_as_missed(sweep_run):
    text = _read(report.write(sweep_run)).text
    assert re.search(r"return 2\d\d\.?\d* ± \S+ \(n = 4\) ✗ target missed · learning_rate = 0.0001", text)
    assert re.search(r"return 49\d\.?\d* ± \S+ \(n = 4\) ✓ target met · learning_rate = 0.0003", text)
    assert re.search(r"\(n = 3\) ✗ missed: no final value from 1 of 4 members · learning_rate = 0.003", text)
    assert "12 members · 4 seeds" in text
    assert "Member 9 (learning_rate 0.003, seed 1) went non-finite at step 121" in text
    assert re.search(r"9 0.003 8 1 \d+\.?\d* \(step 120\)", text), "the members' table dates a value that is not the last"


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        ({"metric": "loss", "op": "<=", "value": 1.0}, 0.5, "target met"),
        ({"metric": "loss", "op": "<=", "value": 0.25}, 0.5, "target missed"),
        ({"metric": "loss", "op": ">=", "value": 0.5}, 0.5, "target met"),
        ({"metric": "elsewhere", "op": ">=", "value": 0.5}, 0.5, "not measured yet"),
        ({"metric": "loss", "op": "~", "value": 0.5}, 0.5, None),
        (None, 0.5, None),
    ],
)
def test_verdict_follows_the_target(tmp_path, target, value, verdict):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": value}))
    (tmp_path / "result.json").write_text(json.dumps({"status": "done", "target": target}))
    text = _read(report.write(tmp_path)).text
    assert ("target met" in text, "target missed" in text, "not measured yet" in text) == tuple(
        verdict == words for words in ("target met", "target missed", "not measured yet")
    )


@pytest.mark.parametrize(
    ("status", "verdict"), [("nonfinite", "missed: the run went non-finite"), ("interrupted", "so far; the run was interrupted")]
)
def test_value_on_the_way_does_not_meet_the_target_of_a_run_that_failed_later(tmp_path, status, verdict):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}')
    (tmp_path / "result.json").write_text(json.dumps({"status": status, "target": {"metric": "loss", "op": "<=", "value": 1.0}}))
    text = _read(report.write(tmp_path)).text
    assert verdict in text
    assert "target met" not in text


def test_running_or_killed_run_is_reported_as_far_as_it_came(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0}\n{"step": 20, "loss": null}\n{"step": 30, "loss": 1.0}\n{"step": 40, "lo')
    text = _read(report.write(tmp_path)).text
    assert f"{tmp_path.name} no result yet" in text
    assert "loss 1 30" in text
    assert "unreadable" not in text


def test_damage_is_said_and_survived(tmp_path):
    (tmp_path / "config.json").write_text('{"recipe": "a/b"')
    (tmp_path / "result.json").write_text("[1]")
    (tmp_path / "evaluations.jsonl").write_bytes(b'\xff\xfe\n{"step": 1, "loss": 3}\n[]\n{"step": "x", "loss": 9}\n{"loss": 8}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step\n\n{"step": 2, "loss": "high"}\n{"step": 1, "loss": 7}\n')
    text = _read(report.write(tmp_path)).text
    for words in (
        "config.json could not be read",
        "result.json is no JSON object",
        "evaluations.jsonl: 1 unreadable line left out",
        "metrics.jsonl: 1 unreadable",
    ):
        assert words in text
    assert "loss 7 1 3 1" in text, "of two rows of the same step the later one counts"


def test_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor metrics\.jsonl"):
        report.write(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        report.write(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_hostile_strings_are_shown_and_do_nothing(hostile_run):
    path = report.write(hostile_run)
    reader = _read(path)
    _harmless(reader)
    for string in HOSTILE[:4]:
        assert " ".join(string.split()) in reader.text
    assert not {"\x00", "\u202e"} & set(path.read_text("utf-8"))


def test_index_of_figures_cannot_bring_other_files_into_the_page(hostile_run):
    reader = _read(report.write(hostile_run))
    assert "the secret" not in reader.text
    assert reader.tags["img"] == 0
    assert reader.text.count("is left out") == 12
    assert reader.tags["figure"] == 2


def test_linked_figures_folder_is_not_followed(tmp_path):
    outside = report.save_figures(tmp_path / "outside", {"secret": report.text("the secret", "")}).parent
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 1}')
    (tmp_path / "run" / "figures").symlink_to(outside)
    assert "the secret" not in _read(report.write(tmp_path / "run")).text


def test_size_of_the_page_is_bounded(classifier_run, monkeypatch):
    monkeypatch.setattr(reading, "LARGEST_FIGURE", 30_000)
    monkeypatch.setattr(reading, "LARGEST_PAGE", 40_000)
    path = report.write(classifier_run)
    assert path.stat().st_size < 150_000
    assert "too large to embed" in _read(path).text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_CONFIG = ("recipe", "options", "seed", "steps", "every", "environment", "members", "created")
_RESULT = (
    "status",
    "step",
    "seconds",
    "peak_share",
    "steps_per_second",
    "units_per_second",
    "unit",
    "memory_bytes",
    "measured",
    "message",
    "target",
    "achieved_flops",
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(_CONFIG, json_values)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(_RESULT, json_values)),
    st.lists(
        st.dictionaries(st.sampled_from(["step", "loss", "x"]), json_values | st.integers(0, 9) | st.lists(st.floats(), max_size=3), max_size=3),
        max_size=4,
    ),
)
def test_any_json_makes_a_harmless_page(tmp_path, config, result, rows):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "result.json").write_text(json.dumps(result))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "figures").mkdir(exist_ok=True)
    (tmp_path / "figures" / "figures.json").write_text(json.dumps([config]))
    _harmless(_read(report.write(tmp_path)))
    _harmless(_read(report.compare([tmp_path, tmp_path], tmp_path / "both.html")))


def test_compare_overlays_runs_and_marks_where_they_differ(classifier_run, tmp_path):
    other = tmp_path / "wider"
    shutil.copytree(classifier_run, other)
    config = json.loads((other / "config.json").read_text())
    config["options"]["width"] = 64
    (other / "config.json").write_text(json.dumps(config))
    page = report.compare([classifier_run, other], tmp_path / "both.html")
    reader, source = _read(page), page.read_text("utf-8")
    _harmless(reader)
    assert "20250601-fashion, wider" in reader.text
    assert re.findall(r'<tr class="differs"><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', source) == [("width", "32", "64")]
    assert reader.text.count("target ≥ 0.91") == 1


def test_compare_needs_a_run(tmp_path):
    with pytest.raises(ValueError, match="at least one run folder"):
        report.compare([], tmp_path / "x.html")


def _browse(page: Path, out: Path, *flags: str) -> tuple[str, str]:
    profile = out / "profile"
    profile.mkdir(parents=True)
    quiet = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    options = [f"--{flag}" for flag in (*quiet, "hide-scrollbars", "window-size=1240,1600", "enable-logging=stderr", "v=0", *flags)]
    command = [str(CHROMIUM), "--headless", f"--user-data-dir={profile}", *options, page.as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(profile)})
    return answer.stdout, "\n".join(line for line in answer.stderr.splitlines() if "CONSOLE" in line)


@needs_browser
@pytest.mark.parametrize("run", ["classifier_run", "sweep_run", "hostile_run"])
def test_browser_renders_the_report_and_logs_nothing(run, request, tmp_path):
    page = report.write(request.getfixturevalue(run))
    _, console = _browse(page, tmp_path / "browser", f"screenshot={tmp_path / 'page.png'}")
    assert console == ""
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    counts = np.unique(pixels @ [65536, 256, 1], return_counts=True)[1]
    assert len(pixels) == 1240 * 1600
    assert counts.max() < 0.98 * len(pixels), "not blank"
    assert len(counts) > 100, "letters and curves have many shades"
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(1).sum() > 100, "two curves, in the colours of the light palette"


@needs_browser
def test_browser_finds_nothing_in_a_hostile_run_but_our_own_script(hostile_run, tmp_path):
    document, _ = _browse(report.write(hostile_run), tmp_path / "browser", "dump-dom")
    assert len(re.findall(r"<script\b", document)) == 1
    assert not re.search(r"<(img|iframe|b)\b[^>]*\bon\w+=", document)
    assert 'class="tip"' in document, "the script has run: it makes the boxes that follow the pointer"


@needs_browser
def test_policy_stops_markup_that_slipped_through_and_the_console_shows_it(classifier_run, tmp_path):
    page = report.write(classifier_run)
    intruder = '<script>document.title = "owned"</script><img src="https://example.invalid/x.png" onerror="document.title = \'owned\'">'
    page.write_text(page.read_text("utf-8").replace("<main>", f"<main>{intruder}"), "utf-8")
    document, console = _browse(page, tmp_path / "browser", "dump-dom")
    assert "<title>fashion-mnist/cnn · dljax</title>" in document
    assert console.count("Content Security Policy") >= 2
