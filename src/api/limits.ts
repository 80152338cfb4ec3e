/* Bounds that the API and the command line share. */

export const QUERY_ROWS_MAX = 1_000_000;
export const QUERY_TIMEOUT_MS_MAX = 24 * 3_600_000;
/** What a request may be long on the control address; elsewhere `api.bodyBytesMax` says it. */
export const CONTROL_BODY_BYTES_MAX = 1024 * 1024;

/** How long a client may take to send a request: its head, and all of it. */
export const HEADERS_TIMEOUT_MS = 5000;
export const REQUEST_TIMEOUT_MS = 10_000;
