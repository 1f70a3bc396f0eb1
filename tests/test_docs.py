"""The site's sources: pictures with alternative texts, links that lead somewhere, data where the small print says."""

import base64
import re
import struct

import pytest

from nsclc_radiomics.core.files import project_root, read_json
from nsclc_radiomics.paper.chapters import paper_notebooks
from nsclc_radiomics.paper.site import GUIDE, _links, _with_pictures, _without_hidden, library_notebooks, write_sources

HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 900, 300)  # of a wide picture, and nothing more
PICTURE = base64.b64encode(HEADER).decode()


def notebook(metadata: dict) -> dict:
    outputs = [{"output_type": "display_data", "data": {"image/png": PICTURE}, "metadata": metadata}]
    code = {"cell_type": "code", "source": "#| export\nplot()", "metadata": {}, "outputs": outputs}
    injected = {
        "cell_type": "code",
        "source": "run = 'x'",
        "metadata": {"tags": ["injected-parameters"]},
        "outputs": [],
    }
    return {"cells": [injected, code, {"cell_type": "code", "source": "#| hide\nx", "metadata": {}, "outputs": []}]}


def test_a_picture_becomes_a_file_with_its_alternative_text(tmp_path):
    made = _with_pictures(notebook({"image/png": {"alt": 'AUC "0.9" & more'}}), "page", tmp_path, "../", fold=True)
    assert len(made["cells"]) == 2 and made["cells"][0]["metadata"]["tags"] == ["hide-input"]
    shown = made["cells"][0]["outputs"][0]["data"]["text/html"]
    assert 'alt="AUC &quot;0.9&quot; &amp; more"' in shown and 'src="../pictures/page-1.png"' in shown
    assert 'class="picture wide"' in shown and 'width="900" height="300"' in shown
    assert (tmp_path / "page-1.png").read_bytes() == HEADER


def test_a_picture_without_one_is_at_least_named(tmp_path):
    made = _with_pictures(notebook({}), "page", tmp_path, "", fold=False)
    assert 'alt="figure 1 of page"' in made["cells"][1]["outputs"][0]["data"]["text/html"]


def test_readers_see_no_directives():
    shown = _without_hidden(notebook({}))["cells"]
    assert [c["source"] for c in shown] == ["run = 'x'", "plot()"]


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("[a](nbs/paper/10_introduction.ipynb)", "[a](paper/10_introduction.ipynb)"),
        ("[a](nbs/10_cohort/20_folder.ipynb)", "[a](library/10_cohort/20_folder.ipynb)"),
        ("[a](10_cohort/20_folder.ipynb)", "[a](library/10_cohort/20_folder.ipynb)"),
        ("[a](nbs/own_cohort.ipynb)", "[a](own_cohort.ipynb)"),
        ("[a](nbs)", "[a](library/00_core/00_errors.ipynb)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(written, wanted):
    assert _links(written, "") == wanted


def test_every_local_link_of_the_first_page_and_the_guide_leads_to_a_page(tmp_path):
    guide = project_root() / "nbs" / f"{GUIDE}.ipynb"
    write_sources(tmp_path / "site", [guide, *library_notebooks()])
    pages = (tmp_path / "site/index.md").read_text(encoding="utf-8")
    pages += "".join(
        "".join(c["source"])
        for c in read_json(tmp_path / f"site/{GUIDE}.ipynb")["cells"]
        if c["cell_type"] == "markdown"
    )
    for link in re.findall(r"\]\(([^)#:]+)\)", pages):
        assert (tmp_path / "site" / link).is_file(), link


def test_the_small_print_of_committed_notebooks_leads_to_files_that_are_kept(tmp_path):
    write_sources(tmp_path / "site", [])
    for page in paper_notebooks():
        for link in re.findall(r'href=\\"\.\./((?:figures|tables)/[\w.-]+)\\"', page.read_text(encoding="utf-8")):
            assert (project_root() / "nbs" / link).is_file() and (tmp_path / "site/_extra" / link).is_file(), (
                page.name,
                link,
            )
