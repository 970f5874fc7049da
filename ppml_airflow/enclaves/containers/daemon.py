"""A Docker daemon, by DOCKER_HOST: the client, and what went wrong with it in our words. Nothing here ever pulls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ppml_airflow.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from docker import APIClient

_CALL_TIMEOUT_S = 60
_HINT = "start one and name it in DOCKER_HOST; scripts/docker-daemon COMMAND runs a command with one of its own"


def connect(*, timeout_s: int = _CALL_TIMEOUT_S) -> APIClient:
    """A client of the daemon that DOCKER_HOST names, else of the system's. The class that Airflow's DockerHook gives.

    Raises:
        ConfigurationError: the Docker SDK is not installed.
        UnavailableError: no daemon answers.
    """
    try:
        from docker import APIClient
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise ConfigurationError(
            "the docker runtime needs the Docker SDK", code="no_docker", hint="pip install ppml-airflow[docker]"
        ) from error
    with docker_errors():
        client = APIClient(version="auto", timeout=timeout_s, **kwargs_from_env())
        client.ping()
    return client


@contextmanager
def docker_errors(*, image: str = "") -> Iterator[None]:
    """Map what the Docker SDK raises in the block.

    Args:
        image: what to call the image that the block asks for.

    Raises:
        UnavailableError: the daemon does not answer.
        ConfigurationError: it refused; or the image is not there.
    """
    from docker.errors import APIError, DockerException, ImageNotFound
    from requests.exceptions import RequestException

    try:
        yield
    except ImageNotFound as error:
        raise ConfigurationError(
            f"container image {image} is not at this Docker daemon, and is never pulled",
            code="image_missing",
            hint=f"ppml image build {image}",
        ) from error
    except APIError as error:
        if error.is_server_error():
            raise UnavailableError(f"Docker failed: {error.explanation}", code="docker_failed") from error
        raise ConfigurationError(f"Docker refused: {error.explanation}", code="docker_refused") from error
    except (DockerException, RequestException, OSError) as error:
        raise UnavailableError("no Docker daemon answers", code="no_docker", hint=_HINT) from error
