import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]


def test_the_program_in_the_readme_runs_as_printed_in_half_a_minute_of_processors_time(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    command, environment = [sys.executable, "-c", program], {**os.environ}
    environment.pop("OMP_NUM_THREADS", None)  # as many threads as torch takes by itself
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30
    (share,) = re.findall(r"\d\d\.\d% correct at [\d,]+ multiply-adds, (\d+)% of the last exit's cost", done.stdout)
    assert 40 <= int(share) <= 60  # budget 0.5; the thresholds were made on the validation images
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
