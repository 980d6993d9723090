"""A model behind an OpenAI-compatible address, asked for its judgement: `said("http://…/v1", "name", messages, at="eval.judge.url")`."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from tuner.errors import ENVIRONMENT, TuneError

TRIES, PATIENCE_S = 3, 120
AT_ONCE = 8  # questions under way together


def said(url: str, model: str, messages: list[dict[str, Any]], *, at: str) -> str:
    """Its answer, in few words and greedily. The key is OPENAI_API_KEY. Raises TuneError (code 4) where it gives none, three times."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY') or 'none'}"}
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 16, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", data=body, headers=headers)
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return str(json.load(response)["choices"][0]["message"]["content"] or "")
        except (OSError, ValueError, LookupError, TypeError) as error:
            if not left:
                what = f"the judge gave no grade: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                raise TuneError(what, url, f"see that it runs (`{at}`, OPENAI_API_KEY)", code=ENVIRONMENT) from error
    raise AssertionError("the last try returns or raises")
