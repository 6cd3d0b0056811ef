"""Markup that is escaped by construction, and numbers in units that people read."""

import json
import math
from html import escape
from typing import Any, TypeGuard

DASH = "–"


# Characters that HTML forbids or that turn the direction of the text around them.
_UNSEEN = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
_VOID = {"br", "circle", "img", "input", "line", "meta", "path"}


class Markup(str):
    """HTML that needs no more escaping; every other string is text.

    >>> Markup("<br>")
    '<br>'
    """


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG. What is not `Markup` is escaped, content and attributes alike; None and False leave an attribute out.

    Args:
      name: of the element, written by us and never by a run.
      content: text, elements or lists of elements.
      attributes: with `_` for `-`; a trailing `_` keeps clear of Python's words (`class_`).

    >>> tag("p", "1 < 2 ", tag("b", "&"), class_='a"b')
    '<p class="a&quot;b">1 &lt; 2 <b>&amp;</b></p>'
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None and value is not False)
    opening = name + "".join(f" {key}" if value is True else f' {key}="{_escaped(value)}"' for key, value in pairs)
    return Markup(f"<{opening}/>") if name in _VOID else Markup(f"<{opening}>{join(*content)}</{name}>")


def join(*content: Any) -> Markup:
    """Contents one after the other, text escaped, None left out.

    >>> join("a<", [tag("br"), None])
    'a&lt;<br/>'
    """
    return Markup("".join(_piece(part) for part in content if part is not None))


def number(value: Any, digits: int = 4) -> str:
    """A number to some significant digits; whole numbers in full, with thin spaces between thousands.

    >>> number(0.912345), number(60000), number(1e-7), number(True), number(None), number("0.1")
    ('0.9123', '60\u202f000', '1e-07', 'True', '–', '0.1')
    """
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == round(value) and abs(value) < 1e15):
        return f"{value:,.0f}".replace(",", "\u202f") if abs(value) < 10**15 else f"{_float(value):.{digits}g}"
    if not math.isfinite(value):
        return DASH
    if 10 ** (digits - 1) <= abs(value) < 1e15:
        return number(round(value))
    return f"{value:.{digits}g}"


def quantity(value: Any, unit: str) -> str:
    """A number of units with a decimal prefix.

    >>> quantity(2.5e11, "FLOP/s"), quantity(999_990, "FLOP"), quantity(7, "FLOP"), quantity(None, "FLOP")
    ('250 GFLOP/s', '1 MFLOP', '7 FLOP', '–')
    """
    if not is_number(value):
        return DASH
    value, power = _float(value), 0
    # 999.5 would be printed as 1e+03.
    while abs(value) >= 999.5 and power < 6:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {' kMGTPE'[power].strip()}{unit}"


def memory(value: Any) -> str:
    """Bytes in binary units.

    >>> memory(512), memory(3 * 2**20), memory(None)
    ('512 B', '3.0 MiB', '–')
    """
    if not is_number(value):
        return DASH
    value = _float(value)
    if abs(value) < 1024:
        return f"{value:.0f} B"
    power = min(5, int(math.log(abs(value), 1024)))
    return f"{value / 1024**power:.1f} {' KMGTP'[power]}iB"


def duration(value: Any) -> str:
    """Seconds as people say them.

    >>> duration(0.0123), duration(42.24), duration(187), duration(7325), duration(None)
    ('12 ms', '42.2 s', '3 min 7 s', '2 h 2 min', '–')
    """
    if not is_number(value):
        return DASH
    value = _float(value)
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60:,} h {minutes % 60} min".replace(",", "\u202f")


def shown(value: Any) -> str:
    """Any value of a JSON file as text: strings as they are, numbers in full, the rest as JSON.

    >>> shown("adam"), shown(0.001), shown(None), shown([1, 2])
    ('adam', '0.001', 'none', '[1, 2]')
    """
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value of a JSON file is a finite number; true and false are none.

    >>> is_number(1.5), is_number(True), is_number(float("nan")), is_number("1")
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(_float(value))


def _piece(part: Any) -> str:
    if isinstance(part, (list, tuple)):
        return join(*part)
    return part if isinstance(part, Markup) else _escaped(part)


def _escaped(value: Any) -> str:
    return escape(str(value).translate(_UNSEEN))


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
