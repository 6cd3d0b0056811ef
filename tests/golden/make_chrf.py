"""Values of chrF by sacrebleu that the tests compare with: run `python tests/golden/make_chrf.py` where it is installed."""

import json
from itertools import product
from pathlib import Path

from sacrebleu.metrics import CHRF

# (predictions, references): verses, one letter, empty strings, white space, punctuation, capitals, letters outside ASCII.
CORPORA = [
    (["En el principio creó Dios los cielos y la tierra."], ["EN el principio crió Dios los cielos y la tierra."]),
    (["Y dijo Dios: Sea la luz; y fue la luz.", "Y vió que era buena"], ["Y dijo Dios: Sea la luz: y fué la luz.", "Y vió Dios que la luz era buena:"]),
    (["a", "", "  tres   tristes tigres "], ["a", "dos", "tres tristes tigres"]),
    (["¿Quién eres?", "(él)", "'sí'"], ["¿ Quién eres ?", "(ella)", "\"Sí\""]),
    (["xyz"], ["abc"]),
    ([""], [""]),
    (["ab", "abc"], ["abcdefgh", "b"]),
]
OPTIONS = [
    {"char_order": char_order, "word_order": word_order, "beta": beta, "lowercase": lowercase}
    for char_order, word_order, beta, lowercase in product((1, 6), (0, 2), (1, 2, 3), (False, True))
]


def main() -> None:
    values = [
        {"predictions": predictions, "references": references, "options": options, "chrf": CHRF(**options).corpus_score(predictions, [references]).score}
        for (predictions, references), options in product(CORPORA, OPTIONS)
    ]
    Path(__file__).with_name("chrf.json").write_text(json.dumps(values, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
