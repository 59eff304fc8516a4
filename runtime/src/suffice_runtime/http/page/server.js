// Requests to the server, with the token that is kept in this tab.

const KEY = "suffice-runtime-token";
const SECONDS = 15;

/** Error of a request, with the status of the response; 0 without a response. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  remove: () => sessionStorage.removeItem(KEY),
};

/** Return the document at a path, relative to the page. */
export async function fetchJson(path, { method = "GET", signal } = {}) {
  const headers = token.get() === null ? {} : { Authorization: `Bearer ${token.get()}` };
  const signals = [AbortSignal.timeout(1000 * SECONDS), ...(signal ? [signal] : [])];
  let response;
  let body;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method, headers, cache: "no-store", credentials: "omit", signal: AbortSignal.any(signals),
    });
    body = await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(response?.status ?? 0, "no answer from the server");
  }
  if (!response.ok) throw new ServerError(response.status, body.error ?? response.statusText);
  return body;
}

/** Return the path of a model, by its name and version. */
export const pathOf = ({ name, version }) =>
  `v1/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`;
