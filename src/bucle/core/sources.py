"""Where a team's documents and rows come from, as bucle.yaml names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

__all__ = [
    "FolderSource",
    "HuggingFaceSource",
    "RowSource",
    "Section",
    "Source",
    "Sources",
    "SqlSource",
    "StoreSource",
    "WebSource",
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
"""Some names, or one."""


class _Common(Section):
    """`name` stands before the paths of a source where a project has several (default: its kind and place).
    `access` maps globs of paths to the labels a reader needs to see what matches; a path that matches several needs
    all of them. `refresh_hours`: a source that is not on this disk is asked again after that long (0: at every run)."""

    name: str = Field("", pattern=r"^[\w.-]{0,60}$")
    access: Mapping[str, Names] = Field(default_factory=dict)


class _Remote(_Common):
    refresh_hours: float = Field(24, ge=0)


class FolderSource(_Common):
    """Files on this disk: everything under `path` (a folder, a file, or a glob such as `docs/**/*.pdf`) that matches a
    pattern. `passwords_env` names an environment
    variable with `path=password` pairs, comma-separated, for encrypted files."""

    kind: Literal["folder"] = "folder"
    path: str
    patterns: Names = ("**/*",)
    passwords_env: str = ""


class WebSource(_Remote):
    """Pages of the web: one page, or every page of a sitemap (a URL that ends in .xml, .xml.gz, or
    `sitemap: true`). robots.txt is kept. Private addresses are refused unless `allow_private`; those of metadata
    services always. `headers` go to the source's own site; a value `env:NAME` is read from the environment."""

    kind: Literal["web"]
    url: str
    sitemap: bool = False
    patterns: Names = ("**",)
    max_pages: int = Field(1000, ge=1)
    delay_s: float = Field(0.5, ge=0)
    headers: Mapping[str, str] = Field(default_factory=dict)
    allow_private: bool = False


class StoreSource(_Remote):
    """Files under any fsspec URL: `s3://`, `gs://`, `abfs://`, `dbfs://`, `memory://`… `options` go to the file
    system as they are; a value `env:NAME` is read from the environment."""

    kind: Literal["store"]
    url: str
    patterns: Names = ("**/*",)
    options: Mapping[str, Any] = Field(default_factory=dict)


class SqlSource(_Remote):
    """The rows of a query on any SQLAlchemy URL. `url_env` names the environment variable that holds a URL with a
    password. Rows beyond `max_rows` are not read. As documents: `text` columns are joined, `title` heads them, `id`
    names each (a row number without it)."""

    kind: Literal["sql"]
    url: str = ""
    url_env: str = ""
    query: str
    text: Names = ()
    title: str = ""
    id: str = ""
    max_rows: int = Field(5_000_000, ge=1)
    timeout_s: float = Field(600, gt=0)

    @model_validator(mode="after")
    def _one_url(self) -> SqlSource:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("give `url`, or `url_env` with the name of the environment variable that holds it")
        return self


class HuggingFaceSource(_Remote):
    """A Hugging Face dataset by Hub name or by folder (Parquet, JSON lines, or as saved to disk). Nothing it
    carries is ever run."""

    kind: Literal["huggingface"]
    path: str
    config: str = ""
    split: str = "train"
    revision: str = ""
    text: Names = ()
    title: str = ""
    id: str = ""
    max_rows: int = Field(5_000_000, ge=1)


def _kind(value: Any) -> str:
    return str(value.get("kind", "folder") if isinstance(value, dict) else getattr(value, "kind", "folder"))


Source = Annotated[
    Annotated[FolderSource, Tag("folder")]
    | Annotated[WebSource, Tag("web")]
    | Annotated[StoreSource, Tag("store")]
    | Annotated[SqlSource, Tag("sql")]
    | Annotated[HuggingFaceSource, Tag("huggingface")],
    Discriminator(_kind),
]


def _list_of_sources(value: Any) -> Any:
    given = value if isinstance(value, list | tuple) else [value]
    return [{"path": one} if isinstance(one, str) else one for one in given]


Sources = Annotated[tuple[Source, ...], BeforeValidator(_list_of_sources)]
"""One source, or a list of them; a text is a folder."""

RowSource = Annotated[WebSource | StoreSource | SqlSource | HuggingFaceSource, Field(discriminator="kind")]
"""Where a task's rows come from when they are not in a file of the project: a table to download, or a query."""
