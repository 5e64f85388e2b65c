"""Where the packages of the server are not installed, its command says how to install them."""

import importlib.util

import pytest

from msm_jax.errors import InputError
from msm_jax.serving import server


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is not None, reason="the server's packages are installed")
def test_without_its_packages_the_command_that_installs_them_is_named():
    with pytest.raises(InputError, match=r"serving needs the package starlette; run make inspect"):
        server.check_installed()
