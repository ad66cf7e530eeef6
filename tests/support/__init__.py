"""What tests share: real servers and clients, and what they are asked."""

import pkgutil

import pytest

# So that assertions in these modules explain themselves, as those of the tests do.
pytest.register_assert_rewrite(*(f"{__name__}.{it.name}" for it in pkgutil.iter_modules(__path__)))
