"""Files of the Hugging Face Hub. Its client knows the cache that all programs share (HF_HOME), the
user's token, mirrors (HF_ENDPOINT) and where a file lies. The bytes come by `transfer`: since 2.x
the client begins a download whose process was killed from the start.
"""

from __future__ import annotations

import re
from pathlib import Path

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.weights.transfer import HostUnreachable

_ADDRESS = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def is_on_hub(url: str) -> bool:
    """Whether `url` is that of a file in a repository of the hub."""
    return _ADDRESS.fullmatch(url) is not None


def find_in_hub_cache(url: str) -> Path | None:
    """The file at `url` where another program has fetched it already."""
    require("huggingface_hub", extra="export")
    from huggingface_hub import try_to_load_from_cache

    repository, revision, name = _split(url)
    cached = try_to_load_from_cache(repository, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def locate_on_hub(url: str, hint: str) -> str:
    """The address that has the content of the file at `url`, for this user, for some time.

    Raises HostUnreachable, also with HF_HUB_OFFLINE, and BadInput with `hint` for a file or
    repository that is not there or not for this user.
    """
    require("huggingface_hub", extra="export")
    from huggingface_hub import (
        get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]
        hf_hub_url,
    )
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        OfflineModeIsEnabled,
    )

    repository, revision, name = _split(url)
    try:
        return get_hf_file_metadata(hf_hub_url(repository, name, revision=revision)).location
    except GatedRepoError:
        raise BadInput(
            f"{repository} asks for your consent at https://huggingface.co/{repository}.",
            "Give it there and log in (hf auth login), or give a file with --weights PATH.",
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise BadInput(f"{url} answered {status} instead of the checkpoint.", hint) from None
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
        raise HostUnreachable(f"The host of {url} cannot be reached ({reason}).", hint) from None
    except HTTPError as error:
        raise HostUnreachable(f"The host of {url} cannot be reached ({error}).", hint) from None


def _split(url: str) -> tuple[str, str, str]:
    address = _ADDRESS.fullmatch(url)
    if address is None:
        raise ValueError(f"{url} is not an address of the hub.")
    return address[1], address[2], address[3]
