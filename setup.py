"""Packaging for pip; everything that can be said in settings.ini is said there, once, for nbdev and pip alike."""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

DATA = ("settings", "definitions", "templates")  # folders of the package that hold no module

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("deep", "explain", "cluster", "idc", "dev")}
repository, branch, pythons = cfg["git_url"], cfg["branch"], cfg["pythons"].split()


def absolute(text: str) -> str:
    "The text with its relative links and pictures as addresses in the repository, for a package index."

    def address(found: re.Match) -> str:
        start, target = found.groups()
        if re.match(r"[a-zA-Z][\w+.-]*:|//|#", target):
            return found.group()
        path = Path(target.split("#")[0])
        kind = "raw" if path.suffix in (".png", ".svg", ".jpg") else "tree" if path.is_dir() else "blob"
        return f"{start}{repository}/{kind}/{branch}/{target}"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)  # code blocks stay as they are
    link = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^\s()"']+)""")
    return "".join(part if k % 2 else link.sub(address, part) for k, part in enumerate(parts))


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=absolute(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=repository,
    project_urls={"Repository": repository, "Changelog": f"{repository}/blob/{branch}/CHANGELOG.md"},
    keywords=cfg["keywords"].split(),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: {version}" for version in pythons),
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    packages=[
        *find_packages(include=["nsclc_radiomics", "nsclc_radiomics.*"]),
        *(f"nsclc_radiomics.{name}" for name in DATA),
    ],
    package_data={"nsclc_radiomics": ["py.typed"], **{f"nsclc_radiomics.{name}": ["*"] for name in DATA}},
    include_package_data=False,
    python_requires=f">={pythons[0]},<3.{int(pythons[-1].split('.')[1]) + 1}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
