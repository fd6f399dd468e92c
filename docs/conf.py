"""The settings of the documentation site: `scripts/build_docs` makes it.

The pages are docs/*.md, whose links work on a code host too; the functions' pages come from the
docstrings, the gallery from docs/examples. What is written while the site is made lies in
docs/gallery, docs/project and docs/reference, which git ignores.

Knows: Sphinx and its extensions, where pages lie. Must not know: what a page says.
"""

import ast
import re
import sys
import warnings
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
from numpydoc.docscrape import Parameter
from sphinx.application import Sphinx
from sphinx_gallery.sorting import FileNameSortKey

import xent_fast

mpl.use("agg")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import docstrings  # noqa: E402

CHECKOUT = HERE.parent

# --- pages outside docs, and links to them --------------------------------------------------------

# Copied into docs/project under these names.
OUTSIDE = {
    "changelog": CHECKOUT / "CHANGELOG.md",
    "contributing": CHECKOUT / "CONTRIBUTING.md",
    "kernels": CHECKOUT / "src" / "xent_fast" / "kernels" / "README.md",
}
# Who searches for a word looks for how to use it.
NOT_SEARCHED = ("project/changelog", "project/kernels", "releasing", "reliability/mutants")


def link_within_site(folder: Path, text: str) -> str:
    """The text with its links to pages that have another name on the site turned to those."""

    def turned(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        target = (folder / path).resolve()
        for name, page in OUTSIDE.items():
            if target == page:
                return f"](/project/{name}.md{anchor})"
        if target.is_relative_to(HERE) and target.suffix == ".md":
            return f"](/{target.relative_to(HERE)}{anchor})"
        return match[0]

    functions = rf"\[`({'|'.join(docstrings.FUNCTIONS)})`\]\(reference\.md\)"
    text = re.sub(functions, r"[`\1`](#xent_fast.\1)", text)
    return re.sub(r"\]\(([\w./-]+\.md)(#[\w-]+)?\)", turned, text)


def copy_pages() -> None:
    folder = HERE / "project"
    folder.mkdir(exist_ok=True)
    for name, page in OUTSIDE.items():
        text = link_within_site(page.parent, page.read_text(encoding="utf-8"))
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def read_page(_: Sphinx, name: str, content: list[str]) -> None:
    if (HERE / f"{name}.md").exists():
        content[0] = link_within_site((HERE / name).parent, content[0])
    if name in NOT_SEARCHED:
        content[0] = f"---\nnosearch: true\n---\n\n{content[0]}"


# --- the project ----------------------------------------------------------------------------------

project = "xent_fast"
author = "the xent_fast developers"
project_copyright = author
version = release = xent_fast.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
root_doc = "index"
exclude_patterns = ["_templates", "examples"]
suppress_warnings = ["config.cache"]

# --- Markdown and formulas ------------------------------------------------------------------------

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
myst_dmath_allow_labels = False

# MathJax from a package, so that formulas are set without a network: the one of its programs that
# brings its glyphs along.
(mathjax,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
mathjax_path = "tex-svg.js"

# --- functions ------------------------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings tell the types
autodoc_mock_imports = [
    name
    for name in ("autograd", "dask", "jax", "mpi4py", "mygrad", "torch")
    if find_spec(name) is None
]
default_role = "py:obj"
numpydoc_show_class_members = False
templates_path = ["_templates"]


def complete(
    _app: Sphinx, kind: str, name: str, _value: object, _options: object, lines: list[str]
) -> None:
    """A docstring with what it takes from others, which says "As for `other`"."""
    module, _, function = name.rpartition(".")
    if kind != "function" or module != "xent_fast" or function not in docstrings.FUNCTIONS:
        return
    document = deepcopy(docstrings.docstring(function))
    for section in ("Parameters", "Returns", "Raises"):
        document[section] = []
        for entry in docstrings.entries(function, section):
            text = entry.text.split("\n")
            if entry.name or entry.kind:
                document[section].append(Parameter(entry.name, entry.kind, text))
            elif document[section]:  # a remark on those above
                document[section][-1].desc.extend(["", *text])
    lines[:] = document.__str__(func_role="obj").split("\n")


def is_left_out(_app: Sphinx, _kind: str, name: str, value: object, *_: object) -> bool | None:
    """Fields of named tuples, which the tuple describes; what serves other libraries alone."""
    is_field = type(value).__name__ == "_tuplegetter"
    return True if is_field or re.fullmatch(r"set_\w+_request|extra_repr", name) else None


# --- gallery --------------------------------------------------------------------------------------


def can_run(example: Path) -> bool:
    """Whether all that it imports is installed. Others are shown without their results."""
    tree = ast.parse(example.read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    return all(find_spec(name) for name in names)


class BeginnersFirst(FileNameSortKey):
    """By name, but for what a beginner reads first."""

    def __call__(self, filename: str) -> str:
        return "" if filename == "plot_two_layers.py" else super().__call__(filename)


# `-t complete`: no example is left out. Sphinx has put `tags` here.
is_complete = tags.has("complete")  # noqa: F821
examples = (HERE / "examples").glob("plot_*.py")
executed = [path.name for path in examples if is_complete or can_run(path)]
# An error, as an example's other errors are; behind the filters that libraries have set.
warnings.filterwarnings("error", category=RuntimeWarning, append=True)
sphinx_gallery_conf = {
    "examples_dirs": ["examples"],
    "gallery_dirs": ["gallery"],
    "ignore_pattern": "train_",  # programs with options: pages show what they do
    "filename_pattern": "|".join(re.escape(f"/{name}") for name in executed),
    "within_subsection_order": BeginnersFirst,
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "abort_on_example_error": True,
    "run_stale_examples": is_complete,  # those too that ran before and are as they were
}

# --- looks ----------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = "xent_fast"
html_static_path = ["_static", f"{mathjax}/static/mathjax/tex-svg.js"]
html_css_files = ["site.css"]
html_show_sourcelink = False
# Only what has pages below it has a list of them at the left.
html_sidebars = {
    **{page.stem: [] for page in HERE.glob("*.md") if page.stem != "reference"},
    **{f"project/{name}": [] for name in OUTSIDE},
    "reliability/mutants": [],
}
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: Sphinx) -> None:
    copy_pages()
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", complete, priority=100)  # before numpydoc reads it
    app.connect("autodoc-skip-member", is_left_out)
