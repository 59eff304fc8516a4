import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]


def test_the_program_in_the_readme_runs_as_printed(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    pinned = "import torch; torch.set_num_threads(1)\n" + program
    done = subprocess.run([sys.executable, "-c", pinned], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (share,) = re.findall(r"\d\d\.\d% right at [\d,]+ multiply-adds, (\d+)% of the last exit's", done.stdout)
    assert 40 <= int(share) <= 60  # what was asked for, on other images than those that the thresholds were made on
    assert (tmp_path / "calibrated" / "manifest.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_heading_that_a_page_points_to_is_there(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), f"{target}#{anchor}"


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
