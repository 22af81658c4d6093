"""Ask one question and look at the answer; what `helm test` runs in the service's image."""

import json
import os
import ssl
import sys
import urllib.request

passages = [{"text": text} for text in json.loads(os.environ["PASSAGES"])]
body = {"question": os.environ["QUESTION"]} | ({"passages": passages} if passages else {})
request = urllib.request.Request(
    os.environ["URL"] + "/answer", json.dumps(body).encode(), {"content-type": "application/json"}
)
if key := os.environ.get("API_KEY"):
    request.add_header("authorization", f"Bearer {key}")
context = ssl._create_unverified_context()
with urllib.request.urlopen(request, timeout=60, context=context) as response:
    answer = json.load(response)
print(json.dumps({name: answer[name] for name in ("answer", "citations", "degraded")}, ensure_ascii=False))
if not answer["answer"] or os.environ["EXPECT"] not in answer["answer"] or not answer["passages"]:
    sys.exit(f"not the answer that was expected: {os.environ['EXPECT']!r}")
