import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf, WaltideError } from '../errors.ts';
import { failpoint } from '../failpoint.ts';
import { FrameBuffer } from '../postgres/frame.ts';

const SEGMENT_FIRST_BYTES = 4 * 1024;
const SEGMENT_MAX_BYTES = 256 * 1024;
/** What is read back at a time, and so the size of the batches of a large transaction; a longer message is read whole. */
const PART_BYTES = 1024 * 1024;

let files = 0;

/**
 * The backend messages of one open transaction as they came, to be read again when it ends: the last ones in memory,
 * those before in a file, once they were spilled.
 */
export class TransactionLog {
  readonly #folder: string;
  readonly #segments: Buffer[] = [];
  /** Bytes of the last segment that are still free. */
  #room = 0;
  #memoryBytes = 0;
  #path: string | null = null;
  #file: FileHandle | null = null;
  #fileBytes = 0;
  #length = 0;

  /** Spills into a file of its own in `folder`, which is made when needed. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Bytes of messages. */
  get length(): number {
    return this.#length;
  }

  /** Bytes of memory held. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  get fileBytes(): number {
    return this.#fileBytes;
  }

  /** Takes a copy of `frames` from `at` to `end`: whole messages. */
  append(frames: Buffer, at: number, end: number): void {
    this.#length += end - at;
    for (let from = at; from < end; ) {
      if (this.#room === 0) this.#grow(end - from);
      const segment = this.#segments.at(-1)!;
      const count = Math.min(this.#room, end - from);
      frames.copy(segment, segment.length - this.#room, from, from + count);
      this.#room -= count;
      from += count;
    }
  }

  /** Small transactions stay small; large ones need few segments. */
  #grow(wanted: number): void {
    const size = Math.max(wanted, Math.min(SEGMENT_MAX_BYTES, Math.max(SEGMENT_FIRST_BYTES, this.#memoryBytes)));
    this.#segments.push(Buffer.allocUnsafeSlow(size));
    this.#room = size;
    this.#memoryBytes += size;
  }

  /** Forgets all from `length` on: messages of what was rolled back to a savepoint. Rejects with SPILL. */
  async truncate(length: number): Promise<void> {
    if (length >= this.#length) return;
    this.#length = length;
    if (length < this.#fileBytes) {
      this.#fileBytes = length;
      // The disk gets its room back; what is written next would overwrite it anyway.
      await this.#spilling(() => this.#file!.truncate(length));
    }
    let held = this.#fileBytes;
    let kept = 0;
    while (kept < this.#segments.length && held < length) held += this.#segments[kept++]!.length;
    for (const segment of this.#segments.splice(kept)) this.#memoryBytes -= segment.length;
    this.#room = held - length;
  }

  /** Moves what is in memory to the end of the file. Rejects with SPILL, and the log is of no use any more then. */
  async spill(): Promise<void> {
    await this.#spilling(async () => {
      this.#file ??= await this.#create();
      for (let i = 0; i < this.#segments.length; i++) {
        const segment = this.#segments[i]!;
        const end = i === this.#segments.length - 1 ? segment.length - this.#room : segment.length;
        for (let at = 0; at < end; ) {
          const { bytesWritten } = await this.#file.write(segment, at, end - at, this.#fileBytes);
          at += bytesWritten;
          this.#fileBytes += bytesWritten;
        }
        failpoint('during-spill');
      }
    });
    this.#segments.length = 0;
    this.#room = 0;
    this.#memoryBytes = 0;
  }

  async #create(): Promise<FileHandle> {
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    this.#path = join(this.#folder, `${process.pid}-${++files}.wal`);
    return open(this.#path, 'wx+', 0o600);
  }

  /** The messages again, whole ones, in parts of about 1 MB that nobody else holds. Rejects with SPILL. */
  async *parts(): AsyncGenerator<Buffer> {
    const frames = new FrameBuffer();
    for (let at = 0; at < this.#fileBytes; ) {
      const part = await this.#read(at, Math.min(PART_BYTES, this.#fileBytes - at));
      at += part.length;
      frames.push(part);
      const whole = frames.take();
      if (whole) yield whole;
    }
    for (let i = 0; i < this.#segments.length; i++) {
      const segment = this.#segments[i]!;
      const last = i === this.#segments.length - 1;
      frames.push(last ? segment.subarray(0, segment.length - this.#room) : segment);
      if (!last && frames.length < PART_BYTES) continue;
      const whole = frames.take();
      if (whole) yield whole;
    }
  }

  async #read(position: number, length: number): Promise<Buffer> {
    const part = Buffer.allocUnsafeSlow(length);
    await this.#spilling(async () => {
      for (let at = 0; at < length; ) {
        const { bytesRead } = await this.#file!.read(part, at, length - at, position + at);
        if (bytesRead === 0) throw new Error(`the file ends at ${position + at}`);
        at += bytesRead;
      }
    });
    return part;
  }

  /** Gives memory and file back. Never rejects: a file that cannot be removed goes with its folder at the next start. */
  async remove(): Promise<void> {
    this.#segments.length = 0;
    this.#memoryBytes = 0;
    this.#length = 0;
    const [file, path] = [this.#file, this.#path];
    this.#file = null;
    this.#fileBytes = 0;
    await file?.close().catch(() => {});
    if (path) await rm(path, { force: true }).catch(() => {});
  }

  async #spilling(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw new WaltideError(
        'SPILL',
        `a transaction in progress cannot be spilled to ${this.#path ?? this.#folder}: ${messageOf(error)}`,
        'Free disk space there, or point stateDir elsewhere; meanwhile PostgreSQL keeps large transactions itself.',
        { cause: error },
      );
    }
  }
}
