"""Decode: the only opener of uploaded bytes.

`ChildDecoder` hands bytes to child processes that hold no secret, no file and no socket but ours, and
takes back model-sized pictures, or one still picture in full for those who work on it. What happens in a
child: `sniff` names one format, `containers` walks the file without decoding it (a probe ends here), `pictures`
lets Pillow decode with that one format, `views` makes inputs of what any viewer could see. `wire` is all that
parent and child share; the parent checks everything it receives.

The children import from this package too, so importing it loads neither numpy nor asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moderation.adapters.decode.pool import ChildDecoder

__all__ = ["ChildDecoder"]


def __getattr__(name: str) -> Any:
    if name == "ChildDecoder":
        from moderation.adapters.decode.pool import ChildDecoder  # noqa: PLC0415

        return ChildDecoder
    raise AttributeError(name)
