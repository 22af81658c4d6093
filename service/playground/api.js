// What the page asks of the service.

import { eventsOf } from "./sse.js";

export class ServiceError extends Error {
  constructor(status, error, retryAfter, requestId) {
    super(error.message);
    Object.assign(this, { status, code: error.code, param: error.param, limit: error.limit, retryAfter, requestId });
  }
}

export async function* ask(body, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch("answer", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
  for await (const event of eventsOf(response.body)) {
    if (event.type === "error") throw new ServiceError(200, event.error, null, event.request_id);
    yield event;
  }
}

export async function isReady() {
  try {
    return (await fetch("readyz")).ok;
  } catch {
    return false;
  }
}

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  const error = said.error ?? { message: response.statusText, code: "unknown" };
  return new ServiceError(response.status, error, response.headers.get("Retry-After"), said.request_id);
}
