// The three things that the page asks its gateway for.

/** What a request failed with: a word for programs and a sentence for people. */
export class Refused extends Error {
  constructor(code, message, status = 0, retryAfter = 0) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter; // seconds
  }
}

/** What is served: name, classes, category_ids, score_threshold, floor, max_bytes, formats, examples. */
export async function askModel() {
  return (await ask("api/model")).json();
}

/** One of the pictures to try, as a file. */
export async function askExample(name) {
  const blob = await (await ask(`api/examples/${encodeURIComponent(name)}`)).blob();
  return new File([blob], name, { type: blob.type });
}

/**
 * The instances in a picture.
 *
 * @param {Blob} picture an encoded picture.
 * @param {AbortSignal} [signal] gives it up.
 * @returns the gateway's reply, with `roundTrip` in milliseconds: from the first byte out to the last one in.
 */
export async function askInstances(picture, signal) {
  const start = performance.now();
  const response = await ask("api/segment", { method: "POST", body: picture, signal });
  const reply = await response.json();
  return { ...reply, roundTrip: performance.now() - start };
}

async function ask(address, options) {
  let response;
  try {
    response = await fetch(address, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("gateway_unreachable", "The gateway that serves this page cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const { code, message } = await response
    .json()
    .then((body) => body.error)
    .catch(() => ({ code: "unreadable", message: `the gateway answered with status ${response.status}` }));
  const sentence = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  throw new Refused(code, sentence, response.status, Number(response.headers.get("Retry-After")) || 0);
}
