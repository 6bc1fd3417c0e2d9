"""Verifies signed webhooks with the library of the Standard Webhooks project (PyPI `standardwebhooks`), which knows nothing of
Comanda. It reads JSON lines `{secret, headers, body}` and prints `true` or `false` for each."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    asked = json.loads(line)
    try:
        Webhook(asked["secret"]).verify(asked["body"], asked["headers"])
        print("true", flush=True)
    except WebhookVerificationError:
        print("false", flush=True)
