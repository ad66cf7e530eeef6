"""The page on which people find and play recordings; it shows what the catalog knows."""

from flask import Flask


def init_app(app: Flask) -> None:
    """Show the catalog at `KZR_BROWSE_PATH`."""
    from .views import browse

    app.register_blueprint(browse, url_prefix=app.config["BROWSE_PATH"])
