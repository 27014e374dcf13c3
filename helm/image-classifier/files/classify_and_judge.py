"""What `helm test` runs: a new user classifies a picture through the queue, judges it, and reads that back."""

import argparse
import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import resources
from typing import Any

TRIES, PAUSE_SECONDS = 60, 2


class Refused(SystemExit):
    """An answer that says no."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request} was answered {status}: {text}")
        self.status = status


def call(method: str, url: str, body: Any = None, **headers: str) -> Any:
    """Return the JSON of a reply; what is not ready yet (503, or nobody there) is asked again."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    for _ in range(TRIES):
        request = urllib.request.Request(url, content, {"Content-Type": "application/json", **named}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                text = reply.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            refused = Refused(f"{method} {url}", error.code, error.read().decode())
            if error.code != 503:
                raise refused from None
            reason = str(refused)
        except OSError as error:
            reason = str(error)
        print(f"{method} {url}: {reason}; asking again")
        time.sleep(PAUSE_SECONDS)
    raise SystemExit(f"{method} {url} is not answered")


def log_in(url: str) -> tuple[str, dict[str, str]]:
    """Register a user for this test; return its address and the header that names it."""
    password, email = secrets.token_urlsafe(16), f"helm-test-{secrets.token_hex(8)}@example.com"
    user = call("POST", f"{url}/user/", {"name": "helm test", "email": email, "password": password})
    form = urllib.parse.urlencode({"username": email, "password": password}).encode()
    token = call("POST", f"{url}/login", form, Content_Type="application/x-www-form-urlencoded")["access_token"]
    return f"{url}/user/{user['id']}", {"Authorization": f"Bearer {token}"}


def classify(url: str, who: dict[str, str]) -> dict[str, Any]:
    """Return a finished prediction."""
    model = call("GET", f"{url}/v1/models", **who)["models"][0]
    picture = resources.files("model_server").joinpath("default_model/golden/silhouette.png").read_bytes()
    wishes = {"Content_Type": "image/png", "Prefer": "respond-async, wait=60"}
    prediction = call("POST", f"{url}/v1/models/{model}:predict", picture, **wishes, **who)
    while prediction["status"] in {"queued", "running"}:
        prediction = call("GET", f"{url}/v1/predictions/{prediction['id']}", Prefer="wait=60", **who)
    if prediction["status"] != "succeeded":
        raise SystemExit(f"The prediction did not succeed: {prediction}")
    return prediction


def judge(url: str, who: dict[str, str], prediction: dict[str, Any]) -> None:
    """Give feedback on a prediction, and find it again."""
    best = prediction["predictions"][0]
    given = {"score": best["score"], "predicted_class": best["label"], "image_file_name": "silhouette.png"}
    given |= {"feedback": "from helm test", "prediction_id": prediction["id"]}
    call("POST", f"{url}/feedback/", given, **who)
    if prediction["id"] not in json.dumps(call("GET", f"{url}/feedback/", **who)):
        raise SystemExit("The feedback that was given cannot be read back.")


def be_turned_away(url: str) -> None:
    """See that the service is ready, and that nobody gets a prediction without an account."""
    call("GET", f"{url}/readyz")
    try:
        classify(url, {})
    except Refused as refused:
        if refused.status != 401:
            raise
    else:
        raise SystemExit("A prediction was made without an account.")


def main() -> None:
    """Run the test against the address on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument(
        "who",
        choices=["user", "anyone", "nobody"],
        help="who the test can be: it registers, needs no account, or gets none",
    )
    options = parser.parse_args()
    if options.who == "nobody":
        be_turned_away(options.url)
        print(
            "ready; nobody without an account gets a prediction, and nobody can make one here: no prediction was tried"
        )
        return
    user, who = log_in(options.url) if options.who == "user" else ("", {})
    prediction = classify(options.url, who)
    print(f"classified: {prediction['predictions'][0]['label']}, version {prediction['model_version']}")
    if options.who == "user":
        judge(options.url, who, prediction)
        call("DELETE", user, **who)
        print("judged, read back, and the user removed")


main()
