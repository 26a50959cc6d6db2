"""Draw the picture of what a user searches for, by a UniMP run. Experimental."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..files import replacing, user_path
from ..rows import Result
from ..text import quoted
from .recommending import check_query, question
from .unimp_runs import trained

if TYPE_CHECKING:
    from .session import Session

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The file formats of a drawn picture, by the end of its name."""


@dataclass(frozen=True, repr=False)
class Drawn(Result):
    """A picture that a UniMP run drew into ``path``, and the items that it was shown, the one that fits the query best first."""

    path: Path
    query: str
    item_ids: list[str]
    titles: list[str]

    def _frame(self) -> Any:
        """A row per item that was shown."""
        return {"item_id": self.item_ids, "title": self.titles}


def draw(
    session: Session,
    user: str,
    query: str,
    out: Path | str = "drawing.png",
    *,
    run: str | None = None,
    device: str = "auto",
) -> Drawn:
    """Draw what a user searches for, and write the picture.

    The run retrieves two items for the query, is shown their pictures, texts and picture codes, and names the codes of a new
    picture, of which the VQ model that made the stored codes makes pixels.

    Raises
    ------
    BundlecacheError
        When the user is unknown or has no history, the query holds no word, the file cannot be written, there is no UniMP run
        that was trained to draw, or the VQ model is not there any more or another one.
    """
    from PIL import Image

    from ..features import vqgan
    from ..train.unimp.checkpoint import read_manifest

    path = user_path(out, "The picture")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise BundlecacheError(
            f"A picture is written as {', '.join(FORMATS)}, not as {quoted(path.name)}.", hint="--out drawing.png"
        )
    check_query(query, Command("draw", user, "red mug"))
    model = trained(session, run, device, "draw")
    asked = question(session, "draw", user, query=query, run=model)
    codes = read_manifest(session.folder.runs / model.name)["codes"]
    (shown,), drawn = model.draw(asked)
    (pixels,) = vqgan.decode(codes["spec"], drawn, codes["fingerprint"])
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=kind)
    ids, titles = session.catalogue.item_ids, session.catalogue.titles
    return Drawn(path, query, [ids[i] for i in shown.tolist()], [titles[i] for i in shown.tolist()])
