import { connect, createServer, type Socket } from 'node:net';

/** What becomes of one piece that was read, in either direction: the pieces to pass on. May take its time. */
export type Wire = (piece: Buffer) => Promise<readonly Buffer[]>;

/** A TCP proxy on a free port of 127.0.0.1: what goes through it can be cut off, slowed down, or left without an answer. */
export class TcpProxy {
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  readonly #server;
  readonly #target: { host: string; port: number };
  /** Of connections made from now on; null = as it comes. */
  wire: Wire | null = null;
  port = 0;

  private constructor(target: { host: string; port: number }) {
    this.#target = target;
    this.#server = createServer((client) => {
      const upstream = connect(this.#target.port, this.#target.host);
      const pair = [client, upstream] as const;
      this.#pairs.add(pair);
      const { wire } = this;
      for (const [from, to] of [pair, [upstream, client]] as const) {
        from.on('error', () => {});
        from.on('close', () => {
          to.destroy();
          this.#pairs.delete(pair);
        });
        if (wire) void carry(from, to, wire);
        else from.pipe(to);
      }
    });
  }

  /** In front of the server of a postgres:// URL. */
  static async before(url: string): Promise<TcpProxy> {
    const { hostname, port } = new URL(url);
    const proxy = new TcpProxy({ host: hostname, port: Number(port) });
    await proxy.#listen();
    return proxy;
  }

  /** In front of a server that must know the proxy's port before it has one itself: `aim` says where it is. */
  static async unaimed(): Promise<TcpProxy> {
    const proxy = new TcpProxy({ host: '127.0.0.1', port: 0 });
    await proxy.#listen();
    return proxy;
  }

  async #listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as { port: number }).port;
  }

  /** Of connections made from now on. One where nobody listens ends them: the proxy's own port stays ours. */
  aim(port: number): void {
    this.#target.port = port;
  }

  /** The same URL, through the proxy. */
  through(url: string): string {
    const changed = new URL(url);
    changed.port = String(this.port);
    return changed.href;
  }

  /** Resets every connection, wherever in a message it is. */
  cut(): void {
    for (const [client, upstream] of this.#pairs) {
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    }
  }

  /** Half-open: nothing passes on the connections of now any more, and neither end is told. Later ones are not touched. */
  freeze(): void {
    for (const [client, upstream] of this.#pairs)
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        from.unpipe(to);
        from.pause();
      }
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function carry(from: Socket, to: Socket, wire: Wire): Promise<void> {
  try {
    for await (const piece of from) {
      for (const part of await wire(piece as Buffer)) {
        if (!to.writable) return;
        if (!to.write(part)) await new Promise((resolve) => to.once('drain', resolve).once('close', resolve));
      }
    }
  } catch {
    // The connection went away; its other end is told by `close`.
  }
}
