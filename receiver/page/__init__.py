"""The page on which people find and play recordings; it shows what the catalog knows."""

from flask import Flask

from .views import browse


def init_app(app: Flask) -> None:
    """Show the catalog at `KZR_BROWSE_PATH`."""
    app.register_blueprint(browse, url_prefix=app.config["BROWSE_PATH"])
