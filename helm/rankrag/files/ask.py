"""Ask one question and look at the answer; what `helm test` runs in the service's image."""

import http.client
import json
import os
import ssl
import sys
from urllib.parse import urlsplit

url = urlsplit(os.environ["URL"])
connection = http.client.HTTPConnection(url.netloc, timeout=60)
if url.scheme == "https":
    # The service's own certificate and no other; it names the public host, not the Service.
    context = ssl.create_default_context(cafile=os.environ["CERTIFICATE"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    connection = http.client.HTTPSConnection(url.netloc, timeout=60, context=context)

passages = [{"text": text} for text in json.loads(os.environ["PASSAGES"])]
body = {"question": os.environ["QUESTION"]} | ({"passages": passages} if passages else {})
key = os.environ.get("API_KEY")
headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
connection.request("POST", "/answer", json.dumps(body), headers)
response = connection.getresponse()
text = response.read().decode()
if response.status != 200:
    sys.exit(f"{response.status}: {text}")
answer = json.loads(text)
sys.stdout.write(f"{answer['answer']}\n")
if not answer["answer"] or os.environ["EXPECT"] not in answer["answer"] or not answer["passages"]:
    sys.exit(f"not the answer that was expected: {os.environ['EXPECT']!r}")
