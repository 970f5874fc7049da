"""A Docker daemon in this process: the few calls of docker-py's APIClient that we make, answered from memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from docker import APIClient
from docker.errors import APIError, ImageNotFound
from requests import Response

IMAGE_ID = "sha256:" + "1f" * 32


class FakeDocker:
    """Has the images that a test gives it; keeps what was created, built, killed and removed."""

    def __init__(self, *images: str) -> None:
        self.images_there = list(images)
        self.created: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self.killed: list[str] = []
        self.left: list[dict[str, str]] = []
        self.built: dict[str, bytes] = {}
        self.build_options: dict[str, Any] = {}
        self.build_error = ""
        self.start_error: Exception | None = None
        self.state = {"Status": "running", "ExitCode": 0, "OOMKilled": False}
        self.output: list[bytes] = []

    def ping(self) -> bool:
        return True

    def images(self, *, name: str = "", quiet: bool = False) -> list[str]:
        return [image for image in self.images_there if not name or image == name]

    def import_image_from_file(self, path: str, *, repository: str, tag: str, changes: list[str]) -> None:
        self.images_there.append(f"{repository}:{tag}")

    def inspect_image(self, image: str) -> dict[str, Any]:
        if image not in self.images_there:
            raise ImageNotFound("no such image", response=answered(404))
        config = {"Entrypoint": ["/opt/ppml/env/bin/python"], "User": "10001:10001", "Cmd": None}
        return {"Id": IMAGE_ID, "Config": config, "RootFS": {"Layers": ["sha256:aa", "sha256:bb"]}, "Size": 5}

    def build(self, *, fileobj: Any, **options: Any) -> Iterator[dict[str, str]]:
        self.build_options = options
        with tarfile.open(fileobj=io.BytesIO(fileobj.read())) as archive:
            for entry in archive:
                opened = archive.extractfile(entry)
                self.built[entry.name] = opened.read() if opened else b""
        yield {"stream": "Step 1/2 : FROM x"}
        if self.build_error:
            yield {"error": self.build_error}
        self.images_there += [IMAGE_ID, options["tag"]]

    def create_host_config(self, **options: Any) -> dict[str, Any]:
        return dict(APIClient(version="1.41").create_host_config(**options))

    def create_container(self, **options: Any) -> dict[str, str]:
        self.created.append(options)
        return {"Id": f"container-{len(self.created)}"}

    def attach(self, container: str, **options: Any) -> Iterator[bytes]:
        return iter(self.output)

    def start(self, container: str) -> None:
        if self.start_error:
            raise self.start_error

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"State": self.state}

    def kill(self, container: str) -> None:
        self.killed.append(container)
        if self.state["Status"] != "running":
            raise APIError("is not running", response=answered(409))

    def remove_container(self, container: str, *, force: bool, v: bool) -> None:
        self.removed.append(container)

    def containers(self, *, filters: dict[str, str], **_: bool) -> list[dict[str, str]]:
        return [found for found in self.left if found["label"] == filters["label"]]


def answered(status: int) -> Response:
    """An answer of a daemon."""
    response = Response()
    response.status_code = status
    return response
