import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Where test processes ask: workers inherit it from the process that ran the global setup. */
const ADDRESS = 'WALTIDE_TEST_SERVERS_ADDRESS';

/** How to start one server that a whole run shares. */
export interface Shared {
  start(): Promise<{ readonly address: unknown; stop(): Promise<unknown> }>;
}

type Started = Awaited<ReturnType<Shared['start']>>;

/** What this process has started, each once. */
const started = new Map<string, Promise<Started>>();

/**
 * For the global setup: servers of the whole test run, each started when a test first asks for it, so that a run
 * that needs none never pays. Returns the teardown.
 */
export async function offer(servers: Readonly<Record<string, Shared>>): Promise<() => Promise<void>> {
  const endpoint = createServer((request, response) => {
    const name = decodeURIComponent((request.url ?? '').slice(1));
    const server = servers[name];
    if (!server) return response.writeHead(404).end(`no shared server is called "${name}"`);
    return own(name, server).then(
      ({ address }) => response.end(JSON.stringify(address)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  // Starting for the first time includes the download.
  endpoint.requestTimeout = 0;
  await new Promise<void>((resolve) => endpoint.listen(0, '127.0.0.1', resolve));
  endpoint.unref();
  process.env[ADDRESS] = `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}/`;
  return async () => {
    delete process.env[ADDRESS];
    endpoint.close();
    await Promise.all([...started.values()].map(async (server) => (await server.catch(() => null))?.stop()));
    started.clear();
  };
}

/** The address of a shared server; starts one of this process's own where no run offers it (a script, say). */
export async function demand(name: string, server: Shared): Promise<unknown> {
  const endpoint = process.env[ADDRESS];
  if (!endpoint) return (await own(name, server)).address;
  const response = await fetch(new URL(encodeURIComponent(name), endpoint));
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return JSON.parse(text);
}

function own(name: string, server: Shared): Promise<Started> {
  const starting = started.get(name) ?? server.start();
  started.set(name, starting);
  return starting;
}
