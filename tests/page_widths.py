"""Open every page of the built documentation at the width of a phone; a page with cut-off text fails.

Run with the directory of the pages: ``python tests/page_widths.py docs/_build``. It looks at every element, because
the theme hides overflow, so the document is never wider than the screen.
"""

import sys
import tempfile
from pathlib import Path

import trio

from browser import CHROMIUM, open_page

PHONE = 360
"""The width of a narrow screen in pixels."""

CUT_OFF = """
(() => {
  const scrolls = element => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const isHidden = element => getComputedStyle(element).overflowX === "hidden" && !element.clientWidth;
  const article = document.querySelector("article") ?? document.body;
  const cutOff = element => {
    for (let at = element; at !== article; at = at.parentElement) {
      if (scrolls(at) || isHidden(at)) return false;
    }
    return element.getBoundingClientRect().right > innerWidth + 1;
  };
  return [...article.querySelectorAll(":not(svg *)")].filter(cutOff).map(element => element.outerHTML.slice(0, 80));
})()
"""
"""The elements of the page's text that extend beyond the screen, and that no scrolling element contains."""


async def main(pages):
    too_wide = 0
    with tempfile.TemporaryDirectory() as profile:
        async with open_page(profile) as page:
            for path in pages:
                await page.open(path, width=PHONE)
                if elements := await page.do(CUT_OFF):
                    too_wide += 1
                    sys.stdout.write(f"{path.name}: wider than {PHONE} pixels:\n")
                    sys.stdout.writelines(f"    {element}\n" for element in elements[:3])
    sys.stdout.write(f"{len(pages)} pages, {too_wide} too wide\n")
    return 1 if too_wide else 0


if __name__ == "__main__":
    found = sorted(Path(sys.argv[1]).resolve().rglob("*.html"))
    if not found:
        sys.exit(f"no pages in {sys.argv[1]}")
    if CHROMIUM is None:
        sys.stdout.write("skipped: no Chromium\n")
    else:
        sys.exit(trio.run(main, found))
