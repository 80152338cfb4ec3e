import { connect, createServer, type Server } from 'node:net';

/**
 * What a client can see of a pooler such as PgBouncer: BackendKeyData that it made up, and startup parameters that it
 * does not pass on. Speaks no TLS. (PostgreSQL manual, "Message Formats".)
 */
export class FakePooler {
  readonly #server: Server;
  port = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async before(url: string): Promise<FakePooler> {
    const { hostname, port } = new URL(url);
    const server = createServer((client) => {
      const upstream = connect(Number(port), hostname);
      client.once('data', (startup: Buffer) => {
        upstream.write(withoutOptions(startup));
        client.pipe(upstream);
      });
      upstream.on('data', (bytes: Buffer) => client.write(withOtherKey(bytes)));
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const)
        from.on('error', () => {}).on('close', () => to.destroy());
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const pooler = new FakePooler(server);
    pooler.port = (server.address() as { port: number }).port;
    return pooler;
  }

  close(): Promise<unknown> {
    return new Promise((resolve) => this.#server.close(resolve));
  }
}

/** StartupMessage: Int32 length, Int32 protocol, then pairs of strings and a zero. */
function withoutOptions(startup: Buffer): Buffer {
  const words = startup.toString('utf8', 8, startup.length - 2).split('\0');
  const kept: string[] = [];
  for (let i = 0; i + 1 < words.length; i += 2) if (words[i] !== 'options') kept.push(words[i]!, words[i + 1]!);
  const body = Buffer.from(`${kept.join('\0')}\0\0`);
  const message = Buffer.concat([startup.subarray(0, 8), body]);
  message.writeInt32BE(message.length, 0);
  return message;
}

/** BackendKeyData: Byte1('K'), Int32(12), Int32 process id, Int32 secret key. It comes in one piece after the login. */
function withOtherKey(bytes: Buffer): Buffer {
  const at = bytes.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
  if (at >= 0) bytes.writeInt32BE(4_242_424, at + 5);
  return bytes;
}
