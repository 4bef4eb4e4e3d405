"""The version, which `pyproject.toml` alone states: read there in a checkout, off the installed package elsewhere."""

import importlib.metadata
import pathlib
import tomllib


def read(package: pathlib.Path) -> str:
    """The version of the package in the folder `package`.

    A checkout's own file comes first: what is installed may be another checkout, or this one as it was.

    Raises:
      importlib.metadata.PackageNotFoundError: neither a checkout nor installed.
    """
    path = package.parent / "pyproject.toml"
    if path.is_file():
        project = tomllib.loads(path.read_text("utf-8")).get("project", {})
        if project.get("name") == "ernie_m_jax":
            return project["version"]
    return importlib.metadata.version("ernie_m_jax")


__version__ = read(pathlib.Path(__file__).resolve().parent)
