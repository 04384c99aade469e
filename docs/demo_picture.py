"""docs/demo.svg, a picture of a real run: `python docs/demo_picture.py > docs/demo.svg`.

It plays the demo with the screen that a terminal shows, keeps what stood there when the stale token was refused, and
puts the closing table below.
"""

import contextlib
import io
import re
import sys
from unittest import mock

from rich.console import Console, RenderableType
from rich.text import Text

from gastown.demo import show
from gastown.demo.screen import LiveScreen, closing

WIDTH = 118  # columns: the longest line of the closing table


class Camera(LiveScreen):
    """The live screen, drawn nowhere but on the film."""

    shot: RenderableType = ""

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        super().say(text)
        if "refused" in text:
            self.shot = self.picture()


def main() -> int:
    camera: list[Camera] = []
    results: list[dict[str, object]] = []

    def aim(total: int, _: bool) -> Camera:
        camera.append(Camera(io.StringIO(), total))
        return camera[0]

    def told(result: dict[str, object]) -> str:
        results.append(result)
        return ""

    swapped = mock.patch.object(show, "screen", aim), mock.patch.object(show, "closing", told)
    with swapped[0], swapped[1], contextlib.redirect_stdout(io.StringIO()):
        code = show.run(agents=5, seed=1, keep=None, as_json=False)
    if code:
        return code
    film = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    film.print(Text("$ make demo", style="bold"))
    film.print(camera[0].shot)
    film.print()
    film.print(Text(closing(results[0])))
    picture = film.export_svg(title="gastown demo", unique_id="demo")
    # no fonts from elsewhere: a page that shows the picture should load nothing
    sys.stdout.write(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))
    return 0


if __name__ == "__main__":
    sys.exit(main())
