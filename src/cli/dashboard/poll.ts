import type { z } from 'zod';
import { askApi, type Endpoint } from '../../api/client.ts';
import { endpointOf, findProcesses } from '../../api/control-client.ts';
import { messageOf, WaltideError } from '../../errors.ts';
import type { Picture } from './model.ts';
import { recordsReading, type StatusReading, statusReading } from './reading.ts';

const TIMEOUT_MS = 5000;
/** A status with 10,000 tables takes about 1 MB. */
const ANSWER_BYTES_MAX = 16_000_000;

interface Answering {
  readonly endpoint: Endpoint;
  readonly status: StatusReading;
}

/** Asks once for everything. Never rejects: what cannot be asked for is said in the picture. */
export type Poll = () => Promise<Picture>;

/** Every process of `slot` on this machine, through its control address, also those that come later. */
export function localPoll(stateDir: string, slot: string): Poll {
  return async () => {
    const { running, silent } = await findProcesses(stateDir, slot);
    const answering: Answering[] = [];
    const reasons = [...silent];
    for (const { file, status } of running) {
      const read = statusReading.safeParse(status);
      if (read.success) answering.push({ endpoint: endpointOf(file), status: read.data });
      else reasons.push(`the one with pid ${file.pid} answers with something else than a status`);
    }
    return pictureOf(answering, reasons, ({ status }) => `pid ${status.pid}`);
  };
}

/** The APIs at these addresses. */
export function remotePoll(endpoints: readonly Endpoint[]): Poll {
  return async () => {
    const answering: Answering[] = [];
    const reasons: string[] = [];
    const asked = await Promise.allSettled(endpoints.map((endpoint) => ask(endpoint, '/cdc/status', statusReading)));
    for (const [i, answer] of asked.entries()) {
      const endpoint = endpoints[i]!;
      if (answer.status === 'fulfilled') answering.push({ endpoint, status: answer.value });
      else reasons.push(reasonOf(endpoint, answer.reason));
    }
    return pictureOf(answering, reasons, ({ endpoint, status }) => `${endpoint.name}, pid ${status.pid}`);
  };
}

async function pictureOf(
  answering: readonly Answering[],
  silent: readonly string[],
  nameOf: (one: Answering) => string,
): Promise<Picture> {
  const atMs = Date.now();
  const processes = answering.map((one) => ({ name: nameOf(one), status: one.status }));
  // What is in PostgreSQL is the same for all of them.
  const [first] = answering;
  let records: Picture['records'] = null;
  let recordsError: string | null = null;
  try {
    if (first) records = await ask(first.endpoint, '/monitoring/dashboard', recordsReading);
  } catch (error) {
    recordsError = messageOf(error);
  }
  return { atMs, processes, silent, records, recordsError };
}

async function ask<T extends z.ZodType>(endpoint: Endpoint, path: string, reading: T): Promise<z.output<T>> {
  const answer = await askApi<unknown>(endpoint, { path, timeoutMs: TIMEOUT_MS, bytesMax: ANSWER_BYTES_MAX });
  const read = reading.safeParse(answer);
  if (read.success) return read.data;
  throw new Error(`${endpoint.name} answers GET ${path} with something that is not Waltide's`);
}

function reasonOf({ name }: Endpoint, error: unknown): string {
  if (error instanceof WaltideError && error.code === 'UNAUTHENTICATED')
    return `${name} does not know the key (${error.message}): set WALTIDE_API_KEY, or name --api-key-file`;
  return messageOf(error).startsWith(name) ? messageOf(error) : `${name}: ${messageOf(error)}`;
}
