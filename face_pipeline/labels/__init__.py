"""What the visible label says, in which lines, and the letters it is drawn with.

`words.npz` holds one anti-aliased mask for each word below, so that no font is needed where labels are drawn. After a
change of wording run `python -m face_pipeline.labels.make FONT` and commit the file.

The letters are drawn with Noto Sans CJK KR Bold, (c) 2014-2021 Adobe, under the SIL Open Font License 1.1, which leaves
free what is made with a font: it "does not apply to any document created using the Font Software". No font is shipped.
"""

from __future__ import annotations

from typing import Final

WORDS_FILE: Final = "words.npz"

LAYOUTS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    # For each language the ways to set it, as lines of words. All say the same but for the last, which is for frames so small
    # that nothing else can be read on them.
    # True for every swapper, trained or not: it says that a face was changed and by what, and nothing about how.
    "en": (("Face altered by computer",), ("Face altered", "by computer"), ("Altered",)),
    "ko": (("컴퓨터로 변형된 얼굴",), ("컴퓨터로", "변형된 얼굴"), ("변형",)),
    "both": (
        ("Face altered by computer", "컴퓨터로 변형된 얼굴"),
        ("Face altered by computer 컴퓨터로 변형된 얼굴",),
        ("Face altered", "by computer", "컴퓨터로", "변형된 얼굴"),
        ("Altered", "변형"),
    ),
}


def all_words() -> tuple[str, ...]:
    """Every word of every layout, once."""
    return tuple(dict.fromkeys(word for layouts in LAYOUTS.values() for lines in layouts for line in lines for word in line.split()))
