"""The page on which people find and play recordings."""

from flask import Blueprint

browse = Blueprint("browse", __name__, template_folder="templates")
