"""`reindex`: the catalog made anew."""

import sys
from typing import TYPE_CHECKING, cast

import click
from flask.cli import with_appcontext

from ..parts import parts
from ..shown import shown
from .common import complain, counted, one_line

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog


@click.command("reindex")
@with_appcontext
def reindex_() -> None:
    """Make the catalog what the storage says, whatever it held before.

    KZR_STORAGE and KZR_CATALOG are those of the receiver, which may run meanwhile. It
    exits with 1 if a recording cannot be read or described.
    """
    if (catalog := parts().catalog) is None:
        raise click.ClickException("there is no catalog: set KZR_CATALOG=yes")
    from ..catalog.indexing import reindex  # which needs an extra

    failed: list[str] = []
    with one_line(), counted(parts().storage) as bar:
        reindex(
            cast("Catalog", catalog),
            parts().storage,
            progress=bar.update,
            odd=lambda path, error: failed.append(shown(f"{path}: not in the catalog: {error}")),
        )
    complain(failed)
    sys.exit(bool(failed))
