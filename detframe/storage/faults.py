"""What the errors of stores mean: a lost connection, which passes, or something that the user has to mend.

Each library raises errors of its own; they are told apart by the number of the answer, by the code in it and by the
names of their classes, so that none of them need be imported. Their texts are not passed on: some hold the address with
its signature.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Iterator
from typing import Any

from detframe.errors import (
    FileAccessError,
    InvalidValueError,
    MissingFileError,
    MissingModuleError,
    NoPermissionError,
    UserError,
)
from detframe.storage.addresses import bucket_of, scheme_of

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3_ANON=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`; FSSPEC_GS_TOKEN=anon for a "
    "public bucket",
    "hf": "HF_TOKEN, or `hf auth login`",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "http": "https://name:password@host/…, or a signed query",
}
_ALIKE = {"s3a": "s3", "gcs": "gs", "abfs": "az", "https": "http"}
_NONE_FOUND = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
_NONE_FOUND |= {"TokenRetrievalError", "LocalTokenNotFoundError", "NoRegionError"}
_NO_BUCKET = {"NoSuchBucket", "RepositoryNotFoundError", "InvalidBucketName"}
_LOST = {
    *("ConnectionError", "TimeoutError", "FSTimeoutError", "gaierror", "HTTPClientError", "ClientConnectionError"),
    *("ClientPayloadError", "TransportError", "IncompleteRead", "IncompleteReadError", "ResponseParserError"),
    *("EndpointConnectionError", "ConnectionClosedError", "ResponseStreamingError", "ServerDisconnectedError"),
    *("ClientOSError", "ChecksumError", "TransferEncodingError", "ContentLengthError"),
}
_BUSY = (408, 425, 429)
_BUSY_CODES = {"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling", "OperationAborted"}
_BUSY_NUMBERS = {errno.EBUSY, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EPIPE}
_BUSY_NUMBERS |= {getattr(errno, "EREMOTEIO", errno.EBUSY)}
_LOCAL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS)
_SAFE_CODE = re.compile(r"[A-Za-z][A-Za-z.]{2,60}", re.ASCII)


def explained(error: Exception, address: str) -> UserError | None:
    """What the user is told about an error that will come again; None of a lost connection, which may pass.

    Args:
        address: without its secrets.
    """
    if isinstance(error, UserError):
        return error
    chain = list(_chain(error))
    names = {parent.__name__ for one in chain for parent in type(one).__mro__}
    status, code = _status(chain), _code(chain)
    if isinstance(error, ImportError):
        return missing_package(address, error)
    if any(isinstance(one, ValueError) and "invalid endpoint" in str(one).lower() for one in chain):
        return FileAccessError(
            f"{address}: the endpoint is no address (AWS_ENDPOINT_URL, or endpoint_url in ~/.aws/config); it must be "
            f"as https://host or http://host:port"
        )
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return FileAccessError(
            f"{address}: the certificate of {bucket_of(address)} is not trusted on this machine. SSL_CERT_FILE names "
            f"the certificates that are; is it the right server?"
        )
    if names & {"HfUriError", "HFValidationError"} or "must be 'namespace/name'" in str(error):
        return InvalidValueError(
            f"{address} names no repository of the Hugging Face Hub; an address is hf://datasets/owner/name/folder, or "
            f"hf://owner/name/file of a model"
        )
    if names & _NONE_FOUND:
        return _refused(address, "no credentials were found")
    if "RefreshError" in names:  # of Google's
        return _refused(address, "the credentials are not accepted")
    if "GatedRepoError" in names:
        return _refused(address, f"the page of {bucket_of(address)} says how to ask for access")
    if "RevisionNotFoundError" in names:
        return MissingFileError(f"{address}: the repository has no such revision; it is what follows the @, else main")
    if names & _NO_BUCKET or code in _NO_BUCKET or "ParamValidationError" in names:
        return missing_bucket(address)
    if status in (401, 403) or any(_refuses(one) for one in chain):
        return _refused(address, f"access was refused{_bracketed(status, code)}")
    if status not in (404, 410) and _will_pass(chain, names, status, code):
        return None
    if status in (404, 410) or any(isinstance(one, FileNotFoundError) for one in chain):
        return MissingFileError(f"{address} does not exist; is its name right, letter case too?")
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return FileAccessError(
            f"{address}: the bucket is in another region than the one asked{_bracketed(status, code)}; set "
            f"AWS_DEFAULT_REGION to its region"
        )
    return FileAccessError(f"{address} cannot be read: {reason(error)}")


def missing_bucket(address: str) -> UserError:
    """The error for a bucket, or a repository, that there is none of."""
    if scheme_of(address) == "hf":
        return MissingFileError(
            f"{address}: the repository {bucket_of(address)} does not exist, or is private; is its name right (data "
            f"sets are at hf://datasets/owner/name)? A private one needs {_CREDENTIALS['hf']}, of an account that may "
            f"read it"
        )
    return MissingFileError(
        f"{address}: the bucket {bucket_of(address)} does not exist; is its name right, and the account or endpoint "
        f"the one that has it?"
    )


def missing_package(address: str, error: ImportError) -> UserError:
    """The error for a library that is not installed, with what installs it."""
    scheme = scheme_of(address)
    package = PACKAGES[scheme]
    more = f" ({error})" if error.name not in (None, package, "fsspec") else ""
    extra = f"pip install {package}" if package == "adlfs" else 'pip install "detframe[remote]"'
    return MissingModuleError(f"{address}: {scheme}:// is read with {package}, which is not installed{more}: {extra}")


def _refused(address: str, why: str) -> UserError:
    scheme = scheme_of(address)
    where = _CREDENTIALS[_ALIKE.get(scheme, scheme)]
    return NoPermissionError(f"{address} may not be used: {why}. Credentials are taken from {where}")


def reason(error: BaseException) -> str:
    """An error in a few words, none of which can be a secret: "HTTP 503 (SlowDown)", "Connection refused"."""
    chain = list(_chain(error))
    status, code = _status(chain), _code(chain)
    if status or code:
        return f"HTTP {status} ({code})" if status and code else f"HTTP {status}" if status else code
    for one in reversed(chain):
        if isinstance(one, OSError) and one.errno and one.errno > 0:
            return os.strerror(one.errno)
    if any(type(one).__name__ == "gaierror" for one in chain):
        return "the name of the server is not known here"
    return type(error).__name__


def is_local(error: BaseException) -> bool:
    """Whether an error is of this machine: a full disk, no memory, too many open files."""
    return any(isinstance(one, OSError) and one.errno in _LOCAL_NUMBERS for one in _chain(error))


def _will_pass(chain: list[BaseException], names: set[str], status: int, code: str) -> bool:
    if status >= 500 or status in _BUSY or code in _BUSY_CODES:
        return True
    if status:
        return False
    if any(type(one) is OSError and str(one).startswith("Consistency check failed") for one in chain):
        return True  # of the Hugging Face Hub: the file ended too early, or is another one than was listed
    return bool(names & _LOST) or any(isinstance(one, OSError) and one.errno in _BUSY_NUMBERS for one in chain)


def _refuses(error: BaseException) -> bool:
    """Whether an error says that access was refused; gcsfs has no other sign of it than a word."""
    return isinstance(error, PermissionError) or (type(error) is OSError and str(error).startswith("Forbidden: "))


def _bracketed(status: int, code: str) -> str:
    found = ", ".join(part for part in (f"HTTP {status}" if status else "", code) if part)
    return f" ({found})" if found else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _status(chain: list[BaseException]) -> int:
    """The number of the server's answer; 0 where there was none."""
    for one in chain:
        answer: Any = getattr(one, "response", None)
        if isinstance(answer, dict):
            found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(answer, "status_code", None) or getattr(one, "status", None)
        if type(one).__name__ == "HttpError":  # of gcsfs; aiohttp has the word for what cannot be parsed
            found = getattr(one, "code", None)
        if isinstance(found, int) and 100 <= found < 600:
            return found
    return 0


def _code(chain: list[BaseException]) -> str:
    """The word in the answer of S3 that says what is wrong; "" where there is none."""
    for one in chain:
        answer: Any = getattr(one, "response", None)
        code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
        if isinstance(code, str) and _SAFE_CODE.fullmatch(code):
            return code
    return ""
