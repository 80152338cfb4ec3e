import type { Duplex } from 'node:stream';
import type pg from 'pg';
import { WaltideError } from '../errors.ts';
import { FrameBuffer } from './frame.ts';
import { Liveness } from './liveness.ts';

/** 'd' CopyData. */
export const COPY_DATA = 0x64;
const COPY_DONE = 0x63;
export const COPY_OUT_RESPONSE = 0x48;
const COPY_BOTH_RESPONSE = 0x57;
const COMMAND_COMPLETE = 0x43;
export const READY_FOR_QUERY = 0x5a;
export const ERROR_RESPONSE = 0x45;

/**
 * While a backlog exists, bytes are left to gather in the kernel for this long between reads. The walsender writes
 * once per message, and a reader that takes each at once costs both sides a wake-up per message: gathering doubles
 * the rate at a quarter of the CPU (bench/). An idle stream is read at once, so latency pays at most this much.
 */
const GATHER_MS = 1;

interface Internals {
  readonly connection: { readonly stream: Duplex };
}

/**
 * A connection in COPY mode (both ways for replication, out for a snapshot). node-postgres logs in; then its parser
 * is taken off the socket, since an object and an event per message would be the most costly part of the road.
 * Reading is pulling: nothing is taken from the socket between two calls of `read`.
 */
export class CopySession {
  readonly #stream: Duplex;
  readonly #frames = new FrameBuffer();
  #failure: Error | null = null;
  #ended = false;
  #wake: (() => void) | null = null;
  #scheduled = false;
  #receivedAt = performance.now();
  #lastRead = 0;

  private constructor(client: pg.Client) {
    this.#stream = (client as unknown as Internals).connection.stream;
    Liveness.waitsBy(client, () => this.waiting);
    this.#stream.removeAllListeners('data');
    this.#stream.removeAllListeners('error');
    this.#stream.on('data', (chunk: Buffer) => this.#onData(chunk));
    this.#stream.on('error', (error: Error) => this.#fail(lost(error.message)));
    this.#stream.on('close', () => this.#fail(lost('the server closed the connection')));
  }

  /** Takes the connection over for good. `query` and `read` are all that is left; `destroy` hangs up. */
  static take(client: pg.Client): CopySession {
    return new CopySession(client);
  }

  /** Sends a Query message. Its answers come by `read`. */
  query(sql: string): void {
    const text = Buffer.from(`${sql}\0`);
    const head = Buffer.alloc(5);
    head[0] = 0x51; // Q
    head.writeUInt32BE(text.length + 4, 1);
    this.#stream.write(Buffer.concat([head, text]));
  }

  /**
   * Sends `command` (START_REPLICATION or COPY … TO STDOUT) and resolves once the server has switched to COPY. Rejects
   * with the server's refusal; the connection is closed then.
   */
  static async start(client: pg.Client, command: string): Promise<CopySession> {
    const session = CopySession.take(client);
    session.query(command);
    try {
      await session.#awaitResponse();
      return session;
    } catch (error) {
      // Not `client.end()`: it would wait for ever for a socket that nobody reads any more.
      session.destroy();
      throw error;
    }
  }

  async #awaitResponse(): Promise<void> {
    for (;;) {
      const frames = await this.read();
      if (!frames) throw lost('the server ended the command');
      for (let at = 0; at < frames.length; at += 1 + frames.readUInt32BE(at + 1)) {
        const type = frames[at];
        if (type === COPY_BOTH_RESPONSE || type === COPY_OUT_RESPONSE) {
          const rest = frames.subarray(at + 1 + frames.readUInt32BE(at + 1));
          if (rest.length > 0) this.#frames.unread(rest);
          return;
        }
        this.control(frames, at);
      }
    }
  }

  /** Whole backend messages, contiguous; null once the server has finished. Rejects when the connection is lost. */
  read(): Promise<Buffer | null> {
    return this.#read(() => this.#frames.take());
  }

  /** As `read`, in parts of whole messages: see `FrameBuffer.takeParts`. */
  readParts(): Promise<Buffer[] | null> {
    return this.#read(() => {
      const parts = this.#frames.takeParts();
      return parts.length > 0 ? parts : null;
    });
  }

  async #read<T>(take: () => T | null): Promise<T | null> {
    const early = this.#lastRead + GATHER_MS - performance.now();
    if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
    for (;;) {
      const taken = take();
      if (taken) {
        this.#lastRead = performance.now();
        return taken;
      }
      if (this.#failure) throw this.#failure;
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.#stream.resume();
      });
    }
  }

  /** Handles one message that is not CopyData. Throws the server's own error. */
  control(frames: Buffer, at: number): void {
    const type = frames[at];
    if (type === ERROR_RESPONSE) throw serverError(frames, at + 5);
    if (type === COPY_DONE || type === COMMAND_COMPLETE || type === READY_FOR_QUERY) this.#ended = true;
  }

  /** Sends one CopyData message (PostgreSQL manual, "Streaming Replication Protocol"). */
  send(payload: Buffer): void {
    if (this.#failure || this.#stream.destroyed) return;
    const head = Buffer.alloc(5);
    head[0] = COPY_DATA;
    head.writeUInt32BE(payload.length + 4, 1);
    this.#stream.write(Buffer.concat([head, payload]));
  }

  /** Says CopyDone and hangs up once all that was sent before is written, or after `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    if (this.#stream.destroyed) return;
    // What still comes is of no use, but the server must get rid of it before it hears us.
    this.#stream.removeAllListeners('data');
    // Copy-done, then Terminate ('X'): the walsender then releases the slot at once.
    this.#stream.write(Buffer.from([COPY_DONE, 0, 0, 0, 4, 0x58, 0, 0, 0, 4]));
    this.#stream.resume();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#stream.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#stream.end();
    });
    this.#stream.destroy();
  }

  /** When the last bytes came, also those of a message that is not whole yet; milliseconds of performance.now(). */
  get receivedAt(): number {
    return this.#receivedAt;
  }

  /** True while a `read` waits for the server: silence then means something. */
  get waiting(): boolean {
    return this.#wake !== null;
  }

  /** Lets a waiting `read` resolve with null, and leaves the connection open for `send`. */
  stopReading(): void {
    this.#ended = true;
    this.#wakeReader();
  }

  /** Hangs up at once. */
  destroy(): void {
    this.#stream.destroy();
  }

  #onData(chunk: Buffer): void {
    this.#frames.push(chunk);
    this.#receivedAt = performance.now();
    if (this.#scheduled) return;
    this.#scheduled = true;
    // One turn of the event loop reads up to 2 MB; only then is the reader woken, and the socket left alone.
    setImmediate(() => {
      this.#scheduled = false;
      this.#stream.pause();
      this.#wakeReader();
    });
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#wakeReader();
  }

  #wakeReader(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}

function lost(message: string): WaltideError {
  return new WaltideError(
    'SOURCE_CONNECTION_LOST',
    `the connection to PostgreSQL broke: ${message}`,
    'It is tried again.',
  );
}

/** An ErrorResponse that came in COPY mode. `code` is its SQLSTATE. */
export class ServerError extends Error {
  readonly code: string;

  constructor(message: string, code: string) {
    super(message);
    this.name = 'ServerError';
    this.code = code;
  }
}

/** The error in the ErrorResponse whose fields begin at `at`. */
export function serverError(frames: Buffer, at: number): ServerError {
  const fields = new Map<string, string>();
  for (let i = at; frames[i] !== 0 && i < frames.length; ) {
    const end = frames.indexOf(0, i + 1);
    fields.set(String.fromCharCode(frames[i]!), frames.toString('utf8', i + 1, end));
    i = end + 1;
  }
  return new ServerError(fields.get('M') ?? 'unknown error', fields.get('C') ?? 'XX000');
}
