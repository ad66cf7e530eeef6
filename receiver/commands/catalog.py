"""`reindex`: the catalog made anew."""

from typing import TYPE_CHECKING, cast

import click
from flask.cli import with_appcontext

from ..parts import parts
from .common import counted, one_line

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog


@click.command("reindex")
@with_appcontext
def reindex_() -> None:
    """Make the catalog what the storage says, whatever it held before.

    KZR_STORAGE and KZR_CATALOG are those of the receiver, which may run meanwhile.
    """
    if (catalog := parts().catalog) is None:
        raise click.ClickException("there is no catalog: set KZR_CATALOG=yes")
    from ..catalog.indexing import reindex  # which needs an extra

    with one_line(), counted(parts().storage) as bar:
        reindex(cast("Catalog", catalog), parts().storage, progress=bar.update)
