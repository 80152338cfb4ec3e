/*
 * Backend messages (PostgreSQL manual, "Message Formats"): Byte1 type, Int32 length including itself, body.
 */

/** Type byte and Int32 length. */
export const HEADER_LENGTH = 5;

/**
 * Puts chunks of a socket together into whole messages. Bytes handed out are never reused, so that events may keep
 * slices of them until they are durable.
 */
export class FrameBuffer {
  #chunks: Buffer[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** Gives back what was taken but belongs to the next reader. */
  unread(frames: Buffer): void {
    this.#chunks.unshift(frames);
    this.#length += frames.length;
  }

  /** All whole messages so far, contiguous, or null when there is none yet. What is left waits for more chunks. */
  take(): Buffer | null {
    if (this.#length < HEADER_LENGTH || this.#length < this.#firstFrameLength()) return null;
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks, this.#length);
    let end = 0;
    while (end + HEADER_LENGTH <= all.length) {
      const next = end + 1 + all.readUInt32BE(end + 1);
      if (next > all.length) break;
      end = next;
    }
    // A copy, since a slice would keep the whole buffer alive for a few bytes.
    const rest = end < all.length ? Buffer.from(all.subarray(end)) : null;
    this.#chunks = rest ? [rest] : [];
    this.#length = rest ? rest.length : 0;
    return end === all.length ? all : all.subarray(0, end);
  }

  /** Looked at before joining chunks: joining again for each chunk of a 1 GB message would be quadratic. */
  #firstFrameLength(): number {
    const first = this.#chunks[0]!;
    if (first.length < HEADER_LENGTH) {
      this.#chunks = [Buffer.concat(this.#chunks, this.#length)];
      return this.#firstFrameLength();
    }
    return 1 + first.readUInt32BE(1);
  }
}
