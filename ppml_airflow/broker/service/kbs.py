"""Trustee's own routes, as its clients ask them: `/kbs/v0`. Refusals have its three statuses and its types.

Which word stands for which refusal follows its source; a resource that is not there is 404, as its protocol says, and
not the 401 upon which its client would attest again and again.

Source: Trustee KBS protocol 0.4.0; `ErrorInformation` of kbs-types (`type`, `detail`; more members are ignored).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ppml_airflow import canonical
from ppml_airflow.broker.service import resources, sessions
from ppml_airflow.broker.service.broker import Broker
from ppml_airflow.errors import PpmlError
from ppml_airflow.protocol.problems import problem_of, status_of

COOKIE = "kbs-session-id"
ERRORS = "https://github.com/confidential-containers/kbs/errors"
_RESOURCE_WORDS = {401: "TokenNotFound", 403: "PolicyDeny", 404: "InvalidRequestPath"}
_REFUSED = (400, 401, 403, 422)


def attestation_problem(error: PpmlError) -> tuple[int, bytes]:
    """Status and body of a refused `auth` or `attest`: 401. What may be tried again keeps its status."""
    status = status_of(error)
    return _told(error, status=401, word="AttestationError") if status in _REFUSED else _told(error, status=status)


def resource_problem(error: PpmlError) -> tuple[int, bytes]:
    """Status and body of a refused `resource`: not attested 401, not for this evidence 403, not marked 404."""
    status = 404 if error.code == resources.UNKNOWN else status_of(error)
    status = 401 if status in (400, 422) else status
    return _told(error, status=status, word=_RESOURCE_WORDS.get(status, ""))


def _told(error: PpmlError, *, status: int, word: str = "") -> tuple[int, bytes]:
    problem = problem_of(error)
    return status, canonical.encode(msgspec.structs.replace(problem, type=f"{ERRORS}/{word}") if word else problem)


def attest(broker: Broker, *, session_id: str, body: bytes) -> bytes:
    """Store evidence; of a stock client, judge it too and answer with a token."""
    is_stock = sessions.attest(broker, session_id=session_id, body=body)
    if not is_stock:
        return canonical.encode({})
    return canonical.encode(resources.accept_stock_client(broker, session_id=session_id))


def read_resource(broker: Broker, *, session_id: str, path: Mapping[str, str]) -> bytes:
    """A marked resource as a JWE."""
    name = "/".join(path[part] for part in ("repository", "type", "tag"))
    return canonical.encode(resources.read_resource(broker, session_id=session_id, path=name))
